//! The connection to the server: its name, its response, its clock and its key.

use std::time::Duration;

use super::LIMIT;
use crate::check::apache::message;
use crate::check::common::{Basis, skew};
use crate::check::{Checks, Finding, Problem, Verdict, WithRemedy as _};
use crate::config;
use crate::model::lease::Moment;
use crate::model::names::{RegistryId, RequestId};
use crate::model::sign::Recipient;
use crate::remote::{Answer, Client, RemoteError};
use crate::system::exec::{self, Run};
use crate::system::{address, clock, pin};

/// Checks the connection to the server.
pub fn checks(checks: &mut Checks, ground: &Basis, request: &RequestId) {
    let node = ground.node.as_ref();
    let name = checks.check("server's name", node, |node| {
        let server = &node.general.server_hostname;
        if !address::resolves(server.as_str()) {
            return Err(Problem::new(
                format!("{server}, the serverHostname of node.cfg, has no address"),
                "enter it in the DNS or in /etc/hosts, or mend serverHostname",
            ));
        }
        // If the server and the node are the same host, the name may resolve to a loopback address.
        if ground.server.as_ref().known().is_none()
            && let Some(from) = address::loopback_source(server.as_str())
        {
            return Err(Problem::new(
                format!("{server}, the serverHostname of node.cfg, has a loopback address here: {from}"),
                "give it the server's address there; or if the server is this machine, see why server.cfg is not here",
            ));
        }
        Ok(Finding::passed((), server))
    });
    let answered = checks.check("server answers", node.and(name), |(node, ())| {
        let url = node.server_url("status");
        let client = Client::stranger(request, LIMIT, &node.general.ca_file);
        let answer = reach(&url, client.post(&Recipient::Server, &url, &()))?;
        Ok(Finding::passed((answer.date, clock::now()), url))
    });
    checks.check("clock", answered.as_ref(), |(theirs, ours)| clock_agrees(*theirs, *ours));
    checks.check("server's key", node.and(ground.key.as_ref()).and(answered.as_ref()), |((node, ()), _)| {
        let key = node.key().with_remedy("see INSTALL.md")?;
        let url = node.server_url("status");
        let registry = bound_registry(node)?;
        let client = Client::new(&key, registry, request, LIMIT, &node.general.ca_file);
        // Signed, but not a report, so it is refused; but only after signature and registry have
        // been checked.
        let answer = client.post(&Recipient::Server, &url, &()).with_remedy("run it again")?;
        if answer.status == 403 {
            let path = node.general.key_file.display();
            return Err(Problem::new(
                message(&answer).unwrap_or_else(|| format!("{url}: HTTP 403")),
                format!("if the clocks agree: scp {}:{path} {path}", node.general.server_hostname),
            ));
        }
        if answer.status == 409 {
            return Err(Problem::new(
                message(&answer).unwrap_or_else(|| format!("{url}: HTTP 409")),
                format!(
                    "on the server: vgrid-registry restore BACKUP; or, to obey its new registry from now on: rm {}",
                    pin::file(&node.general.state_directory).display()
                ),
            ));
        }
        let registry = registry.map_or_else(|| "not met yet".to_owned(), |id| id.to_string());
        Ok(Finding::passed((), format!("the same as here; its registry: {registry}")))
    });
}

/// Checks that vGrid itself answers a stranger, by refusing.
fn reach(url: &str, answer: Result<Answer, RemoteError>) -> Result<Answer, Problem> {
    let answer = answer.map_err(|error| {
        Problem::new(
            format!("{url}: {error}"),
            "start Apache on the server, open the way to it, or mend serverURL in node.cfg",
        )
    })?;
    match message(&answer) {
        Some(text) if answer.status == 403 && text.starts_with("Refused") => Ok(answer),
        Some(text) => Err(Problem::new(format!("{url}: {text}"), "run vgrid-check on the server")),
        None => Err(Problem::new(
            format!("{url}: HTTP {}, and it is not vGrid that answers", answer.status),
            "run vgrid-check on the server, or mend serverURL in node.cfg",
        )),
    }
}

/// Compares the clocks, and reports whether NTP synchronizes this host's.
fn clock_agrees(theirs: Option<Moment>, ours: Moment) -> Verdict<()> {
    let kept = exec::find(&["timedatectl"])
        .and_then(|program| {
            Run::new(program)
                .args(["show", "-p", "NTPSynchronized", "--value"])
                .limit(Duration::from_secs(10))
                .run()
                .ok()
        })
        .is_some_and(|output| output.text().trim() == "yes");
    let kept = if kept { "kept by NTP" } else { "nothing is known to keep it right" };
    match theirs {
        Some(theirs) => {
            let skew = skew("the server", theirs, ours)?;
            Ok(Finding::passed((), format!("{} s from the server's; {kept}", skew.abs())))
        }
        None => {
            Err(Problem::new("the server does not tell its time", "take out what removes its Date header"))
        }
    }
}

/// Returns the registry that this host is bound to; `None` if there is none yet.
fn bound_registry(node: &config::Node) -> Result<Option<RegistryId>, Problem> {
    let state = &node.general.state_directory;
    pin::read(state).map_err(|error| {
        let file = pin::file(state);
        Problem::new(
            format!("{}: {error}", file.display()),
            format!("rm {}: the next order of the server makes it anew", file.display()),
        )
    })
}
