//! Queries all nodes at once and checks their answers.

use super::registry::identity;
use crate::check::apache::message;
use crate::check::common::{Basis, skew};
use crate::check::{Checks, Fact, Finding, Problem, WithRemedy as _};
use crate::config::{self, Common};
use crate::model::lease::Moment;
use crate::model::names::{PhysicalHost, RegistryId, RequestId};
use crate::model::sign::{Key, Recipient, SignFault};
use crate::model::wire::{NodeInfo, NodeRefusal};
use crate::remote::{Answer, Client, RemoteError};
use crate::system::{address, clock};

/// Finds the hosts whose names have an address.
pub fn with_addresses(common: &Common) -> Finding<Vec<PhysicalHost>> {
    let (mut known, mut problems) = (Vec::new(), Vec::new());
    for (host, _) in &common.physical_hosts {
        if !address::resolves(host.as_str()) {
            problems.push(Problem::new(
                format!("{host} has no address"),
                "enter it in the DNS or in /etc/hosts, or take it out of [PhysicalHostsPool] of common.cfg",
            ));
        } else if let Some(from) = loopback_source(host) {
            problems.push(Problem::new(
                format!("{host} has a loopback address here, so this machine would ask itself: {from}"),
                "give it the host's own address there; if this machine is it: hostnamectl set-hostname NAME",
            ));
        } else {
            known.push(host.clone());
        }
    }
    let note = format!("all {} have an address", known.len());
    Finding::partial((!known.is_empty()).then_some(known), note, problems)
}

/// Queries the nodes and checks their answers, one aspect after another. A node with a problem is
/// left out of later checks.
pub fn checks(checks: &mut Checks, ground: &Basis, request: &RequestId, hosts: Fact<Vec<PhysicalHost>>) {
    let needs = ground.server.as_ref().and(ground.key.as_ref()).and(hosts);
    let heard = checks.check("nodes answer", needs, |((server, ()), hosts)| {
        let key = server.key().with_remedy("see INSTALL.md")?;
        let (mut heard, mut problems) = (Vec::new(), Vec::new());
        let registry =
            identity(&server.general.registry_file).with_remedy("see the line about the registry")?;
        for result in ask_all(server, &key, registry, request, &hosts) {
            match result {
                Ok(one) => heard.push(one),
                Err(problem) => problems.push(problem),
            }
        }
        let note = format!("all {} do", heard.len());
        Ok(Finding::partial((!heard.is_empty()).then_some(heard), note, problems))
    });
    checks.check("nodes' clocks", heard.as_ref(), |heard| {
        let mut widest = 0;
        let mut problems = Vec::new();
        for one in heard {
            match one.clocks.map(|(theirs, ours)| skew(one.host.as_str(), theirs, ours)) {
                Some(Err(problem)) => problems.push(problem),
                Some(Ok(seconds)) => widest = widest.max(seconds.abs()),
                None => problems.push(Problem::new(
                    format!("{} does not tell its time", one.host),
                    "take out what removes its Date header",
                )),
            }
        }
        Ok(Finding::partial(Some(()), format!("at most {widest} s from this one"), problems))
    });
    let heard = pass(checks, "nodes take orders from here", heard, |one| match &one.stand {
        Stand::OtherServer(sentence) => Some(Problem::new(
            format!("{}: {sentence}", one.host),
            "set serverHostname in its node.cfg to a name of this machine (or mend that name's address there)",
        )),
        _ => None,
    });
    let heard = pass(checks, "nodes' keys", heard, |one| match &one.stand {
        Stand::OtherKey => Some(Problem::new(
            format!("{} has another key than this machine", one.host),
            format!("copy this machine's {} to it", key_file(ground)),
        )),
        // A refusal because of the time is not judged here, since it says nothing about the key.
        _ => None,
    });
    let heard = pass(checks, "nodes' registry", heard, |one| match &one.stand {
        Stand::OtherRegistry(sentence) => Some(Problem::new(
            format!("{}: {sentence}", one.host),
            "vgrid-registry restore BACKUP; or see ADMIN.md, \"A lost registry\"",
        )),
        _ => None,
    });
    let heard = pass(checks, "nodes tell what they have", heard, |one| match &one.stand {
        Stand::CallFailure(sentence) => Some(Problem::new(
            format!("{}: {sentence}", one.host),
            format!("run vgrid-check on {}", one.host),
        )),
        Stand::OtherTime => Some(Problem::new(
            format!("{} refuses this machine's signature because of its time", one.host),
            "timedatectl set-ntp true, on both",
        )),
        _ => None,
    });
    let told = |heard: &Heard| match &heard.stand {
        Stand::Told(info) => Some(info.host.clone()),
        _ => None,
    };
    checks.check("nodes' version", heard.as_ref(), |heard| {
        let problems = heard
            .iter()
            .filter_map(|one| {
                Some((one, told(one)?.version)).filter(|(_, version)| version != crate::VERSION)
            })
            .map(|(one, version)| {
                Problem::new(
                    format!("{} has vGrid {version}, this machine {}", one.host, crate::VERSION),
                    "install the same on all machines",
                )
            });
        Ok(Finding::partial(Some(()), crate::VERSION, problems.collect()))
    });
    checks.check("nodes' common.cfg", heard.as_ref().and(ground.common.as_ref()), |(heard, common)| {
        let problems = heard
            .iter()
            .filter(|one| told(one).is_some_and(|host| host.common_digest != common.digest))
            .map(|one| {
                Problem::new(
                    format!("common.cfg on {} is another than here", one.host),
                    format!("scp {} {}:/etc/vgrid/", ground.dir.join("common.cfg").display(), one.host),
                )
            });
        Ok(Finding::partial(Some(()), "the same as here", problems.collect()))
    });
}

/// How a node responded to the query.
#[derive(Debug)]
enum Stand {
    /// It takes orders from another machine only.
    OtherServer(String),
    /// It has another key.
    OtherKey,
    /// It obeys another registry.
    OtherRegistry(String),
    /// It considered the signature too old, or from the future.
    OtherTime,
    /// It obeys this server, but reports a problem.
    CallFailure(String),
    /// It reported everything.
    Told(Box<NodeInfo>),
}

/// The answer of one node.
#[derive(Debug)]
struct Heard {
    host: PhysicalHost,
    stand: Stand,
    /// Its clock and ours at the same moment.
    clocks: Option<(Moment, Moment)>,
}

/// Returns the path of the key file, for a remedy.
fn key_file(ground: &Basis) -> String {
    let server = ground.server.as_ref().known();
    server.map_or_else(|| "key".to_owned(), |server| server.general.key_file.display().to_string())
}

/// Runs one check on all nodes. Those without a problem go on to the next check.
fn pass(
    checks: &mut Checks,
    name: &'static str,
    heard: Fact<Vec<Heard>>,
    judge: impl Fn(&Heard) -> Option<Problem>,
) -> Fact<Vec<Heard>> {
    checks.check(name, heard, |heard| {
        let (mut well, mut problems) = (Vec::new(), Vec::new());
        for one in heard {
            match judge(&one) {
                Some(problem) => problems.push(problem),
                None => well.push(one),
            }
        }
        let note = well.iter().map(|one| one.host.as_str()).collect::<Vec<_>>().join(", ");
        Ok(Finding::partial((!well.is_empty()).then_some(well), note, problems))
    })
}

/// Queries all nodes at once, since one that is down takes the whole time limit.
fn ask_all(
    server: &config::Server,
    key: &Key,
    registry: RegistryId,
    request: &RequestId,
    hosts: &[PhysicalHost],
) -> Vec<Result<Heard, Problem>> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = hosts
            .iter()
            .map(|host| {
                scope.spawn(move || {
                    let (limit, ca_file) = (server.node_timeout(), &server.general.ca_file);
                    let client = Client::new(key, Some(registry), request, limit, ca_file);
                    let url = server.node_url(host, "info");
                    let answer = client.get(&Recipient::Node(host.clone()), &url);
                    understand(host, &url, answer, clock::now())
                })
            })
            .collect();
        asked.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// Interprets a node's answer. It is an error if no node answered.
fn understand(
    host: &PhysicalHost,
    url: &str,
    answer: Result<Answer, RemoteError>,
    now: Moment,
) -> Result<Heard, Problem> {
    let answer = answer.map_err(|error| {
        let why = format!("{host}: {error} ({url})");
        Problem::new(
            why,
            format!("start Apache on {host}, open the way to it, or mend nodeURL in server.cfg"),
        )
    })?;
    let stand = if let Ok(info) = answer.json::<NodeInfo>() {
        Stand::Told(Box::new(info))
    } else if let Ok(NodeRefusal { fault }) = answer.json() {
        Stand::CallFailure(fault.to_string())
    } else {
        match (answer.status, message(&answer)) {
            (403, Some(text)) if text.contains("takes orders from") => Stand::OtherServer(text),
            (403, Some(text)) if text.contains(&SignFault::Wrong.to_string()) => Stand::OtherKey,
            (403, Some(text)) if text.contains("the message was signed") => Stand::OtherTime,
            (403, Some(text)) if text.contains("obeys the registry") => Stand::OtherRegistry(text),
            (_, Some(text)) => Stand::CallFailure(text),
            (status, None) => {
                return Err(Problem::new(
                    format!("{url}: HTTP {status}, and it is not vGrid that answers"),
                    format!("on {host}: a2enmod cgid && a2enconf vgrid-node && systemctl restart apache2"),
                ));
            }
        }
    };
    Ok(Heard { host: host.clone(), stand, clocks: answer.date.map(|theirs| (theirs, now)) })
}

/// Returns where a loopback address for another machine comes from, if the host has one. For this
/// machine's own name Debian sets one up, and it works.
fn loopback_source(host: &PhysicalHost) -> Option<String> {
    let own = nix::unistd::gethostname().unwrap_or_default();
    if host.is_called(&own.to_string_lossy()) { None } else { address::loopback_source(host.as_str()) }
}
