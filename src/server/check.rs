//! The server's own checks for `vgrid-check`: the portal's files, its pages, and every node.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::cgi::policy::ENDPOINTS;
use crate::check::apache::{self, Own, message};
use crate::check::common::{Ground, skew};
use crate::check::rights::{self, WEB_USER};
use crate::check::{Checks, Found, OrElse as _, Problem, Seen, Verdict};
use crate::config;
use crate::config::mail::{MailServer, Transport};
use crate::model::lease::Moment;
use crate::model::names::{PhysicalHost, RegistryId, RequestId};
use crate::model::sign::{Key, Recipient, SignFault};
use crate::model::text::ago;
use crate::model::wire::{NodeInfo, NodeRefusal};
use crate::remote::{Answer, Client, RemoteError};
use crate::server::mail;
use crate::server::registry::upkeep::LONGEST_GAP;
use crate::server::registry::{Registry, RegistryError};
use crate::system::{address, clock};
use crate::template::page;

/// The page templates; the layout is read with each.
const PAGES: [&str; 13] = [
    "list.html",
    "deploy.html",
    "show.html",
    "console.html",
    "extend.html",
    "terminate.html",
    "power.html",
    "admin.html",
    "history.html",
    "save.html",
    "images.html",
    "image.html",
    "error.html",
];

/// Where the programs are that Apache runs.
const PROGRAMS: &str = "/usr/lib/vgrid/cgi-bin";
/// Where Apache looks for how people sign in.
const SIGN_IN: &str = "/usr/lib/vgrid/cgi-bin/user/.htaccess";

/// What a node made of being asked about itself.
#[derive(Debug)]
enum Stand {
    /// It takes orders from another machine only.
    OtherServer(String),
    /// It has another key.
    OtherKey,
    /// It obeys another registry.
    OtherRegistry(String),
    /// It found the signature too old, or from the future.
    OtherTime,
    /// It knows us, but is in trouble.
    Trouble(String),
    /// It told all.
    Told(Box<NodeInfo>),
}

#[derive(Debug)]
struct Heard {
    host: PhysicalHost,
    stand: Stand,
    /// Its clock, and ours at the same time.
    clocks: Option<(Moment, Moment)>,
}

/// Makes the server's checks.
pub fn run(checks: &mut Checks, ground: &Ground) {
    let server = ground.server.as_ref();
    apache::site(checks, "portal's site", &ground.includes, "vgrid-server", "/cgi-bin/user/");
    checks.check_as_root("sign-in", ground.web.as_ref(), |_| sign_in(&ground.dir));
    checks.check("page templates", server, |server| {
        let dir = &server.general.template_directory;
        for name in PAGES {
            page::check(dir, name)
                .or_else_do("make install PARTS=server, or mend templateDirectory in server.cfg")?;
        }
        Ok(Seen::well((), dir.display()))
    });
    let is_root = checks.is_root();
    checks.check("mail", server, |server| mail_leaves(server, is_root));
    checks.check_as_root("registry", server.and(ground.web.as_ref()), |(server, web)| {
        registry(&server.general.registry_file, web)
    });
    checks.check_as_root("upkeep", server, |server| upkeep_runs(&server.general.registry_file));
    checks.check("portal's programs", Found::Known(()), |()| programs());
    let request = checks.request.clone();
    checks.check("portal answers", server, |server| {
        portal_answers(&Own::new(&ground.own_url, &request, &server.general.ca_file))
    });
    let hosts = checks.check("hosts' names", ground.common.as_ref(), |common| {
        let (mut known, mut problems) = (Vec::new(), Vec::new());
        for (host, _) in &common.physical_hosts {
            if !address::resolves(host.as_str()) {
                problems.push(Problem::new(
                    format!("{host} has no address"),
                    "enter it in the DNS or in /etc/hosts, or take it out of [PhysicalHostsPool] of common.cfg",
                ));
            } else if let Some(from) = where_astray(host) {
                problems.push(Problem::new(
                    format!("{host} has a loopback address here, so this machine would ask itself: {from}"),
                    "give it the host's own address there; if this machine is it: hostnamectl set-hostname NAME",
                ));
            } else {
                known.push(host.clone());
            }
        }
        let note = format!("all {} have an address", known.len());
        Ok(Seen::partly((!known.is_empty()).then_some(known), note, problems))
    });
    nodes(checks, ground, &request, hosts);
}

/// Where a host that is another machine has a loopback address from, if it has one. On a host's own machine that is as Debian
/// installs it, and works.
fn where_astray(host: &PhysicalHost) -> Option<String> {
    let own = nix::unistd::gethostname().unwrap_or_default();
    if host.is_called(&own.to_string_lossy()) { None } else { address::astray(host.as_str()) }
}

fn nodes(checks: &mut Checks, ground: &Ground, request: &RequestId, hosts: Found<Vec<PhysicalHost>>) {
    let needs = ground.server.as_ref().and(ground.key.as_ref()).and(hosts);
    let heard = checks.check("nodes answer", needs, |((server, ()), hosts)| {
        let key = server.key().or_else_do("see INSTALL.md")?;
        let (mut heard, mut problems) = (Vec::new(), Vec::new());
        let registry =
            identity(&server.general.registry_file).or_else_do("see the line about the registry")?;
        for result in ask_all(server, &key, registry, request, &hosts) {
            match result {
                Ok(one) => heard.push(one),
                Err(problem) => problems.push(problem),
            }
        }
        let note = format!("all {} do", heard.len());
        Ok(Seen::partly((!heard.is_empty()).then_some(heard), note, problems))
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
        Ok(Seen::partly(Some(()), format!("at most {widest} s from this one"), problems))
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
        // Not judged; the clock is to blame.
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
        Stand::Trouble(sentence) => Some(Problem::new(
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
        Ok(Seen::partly(Some(()), crate::VERSION, problems.collect()))
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
        Ok(Seen::partly(Some(()), "the same as here", problems.collect()))
    });
}

fn key_file(ground: &Ground) -> String {
    let server = ground.server.as_ref().known();
    server.map_or_else(|| "key".to_owned(), |server| server.general.key_file.display().to_string())
}

/// One check of all nodes; those about which there is no problem are for the next.
fn pass(
    checks: &mut Checks,
    name: &'static str,
    heard: Found<Vec<Heard>>,
    judge: impl Fn(&Heard) -> Option<Problem>,
) -> Found<Vec<Heard>> {
    checks.check(name, heard, |heard| {
        let (mut well, mut problems) = (Vec::new(), Vec::new());
        for one in heard {
            match judge(&one) {
                Some(problem) => problems.push(problem),
                None => well.push(one),
            }
        }
        let note = well.iter().map(|one| one.host.as_str()).collect::<Vec<_>>().join(", ");
        Ok(Seen::partly((!well.is_empty()).then_some(well), note, problems))
    })
}

/// Asks all nodes at once: one that is down takes its whole time.
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
        Stand::Trouble(fault.to_string())
    } else {
        match (answer.status, message(&answer)) {
            (403, Some(text)) if text.contains("takes orders from") => Stand::OtherServer(text),
            (403, Some(text)) if text.contains(&SignFault::Wrong.to_string()) => Stand::OtherKey,
            (403, Some(text)) if text.contains("the message was signed") => Stand::OtherTime,
            (403, Some(text)) if text.contains("obeys the registry") => Stand::OtherRegistry(text),
            (_, Some(text)) => Stand::Trouble(text),
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

/// Whether mail could be written and sent.
fn mail_leaves(server: &config::Server, is_root: bool) -> Verdict<()> {
    let Some(outlet) = &server.mail.outlet else {
        return Ok(Seen::well((), "none is sent ([Mail] transport in server.cfg)"));
    };
    mail::check_templates(server)
        .or_else_do("make install PARTS=server, or mend templateDirectory in server.cfg")?;
    if let Transport::Smtp(MailServer { login: Some(login), .. }) = &outlet.transport {
        only_web_user_reads(&login.password_file, is_root)?;
    }
    let (whither, remedy) = match &outlet.transport {
        Transport::Smtp(mail) => (
            format!("{} port {}", mail.host, mail.port),
            "start the mail server, open the way to it, have it take mail from this machine, or mend [Mail] in \
             server.cfg: server, encryption, caFile, user, passwordFile, sender",
        ),
        Transport::Sendmail(program) => (
            program.display().to_string(),
            "install a mail server such as postfix, or mend sendmail in [Mail] of server.cfg",
        ),
    };
    let recipient = server.administrators_mail().first().copied();
    mail::answers(outlet, recipient).map_err(|why| format!("{whither}: {why}")).or_else_do(remedy)?;
    Ok(Seen::well((), format!("{whither} takes it")))
}

/// Whether a secret can be read by the web server's user and not by everybody.
fn only_web_user_reads(file: &Path, is_root: bool) -> Result<(), Problem> {
    let remedy = format!("chown root:{WEB_USER} {0} && chmod 640 {0}", file.display());
    let facts = std::fs::metadata(file)
        .map_err(|error| format!("{}: {}", file.display(), rights::words(&error)))
        .or_else_do(&remedy)?;
    if facts.permissions().mode() & 0o007 != 0 {
        return Err(Problem::new(format!("{} can be read by everybody", file.display()), remedy));
    }
    if is_root && !rights::web_user_reads(file) {
        return Err(Problem::new(format!("{WEB_USER} can't read {}", file.display()), remedy));
    }
    Ok(())
}

fn sign_in(dir: &Path) -> Verdict<()> {
    let file = dir.join("htaccess");
    let choose = format!("cp {0}/htaccess.basic {0}/htaccess, and see INSTALL.md", dir.display());
    let text = std::fs::read_to_string(&file)
        .map_err(|error| format!("{}: {}", file.display(), rights::words(&error)))
        .or_else_do(&choose)?;
    let directives = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    if !directives().any(|line| line.starts_with("Require")) {
        return Err(Problem::new(
            format!("{} has no Require line: nobody can sign in", file.display()),
            choose,
        ));
    }
    let (Ok(linked), Ok(meant)) = (Path::new(SIGN_IN).canonicalize(), file.canonicalize()) else {
        return Err(Problem::new(
            format!("{SIGN_IN} is not there: nobody can sign in"),
            format!("ln -sfn {} {SIGN_IN}", file.display()),
        ));
    };
    if linked != meant {
        return Err(Problem::new(
            format!("{SIGN_IN} is not {}", file.display()),
            format!("ln -sfn {} {SIGN_IN}", file.display()),
        ));
    }
    let users = directives().find_map(|line| line.strip_prefix("AuthUserFile"));
    let Some(users) = users.map(|rest| Path::new(rest.trim().trim_matches('"'))) else {
        return Ok(Seen::well((), file.display()));
    };
    let make = format!("htpasswd -B -c {} NAME", users.display());
    let known = std::fs::read_to_string(users)
        .map_err(|error| format!("{}: {}", users.display(), rights::words(&error)))
        .or_else_do(&make)?;
    let count = known.lines().filter(|line| line.contains(':')).count();
    if count == 0 {
        return Err(Problem::new(format!("{} knows nobody", users.display()), make));
    }
    if !rights::web_user_reads(users) {
        return Err(Problem::new(
            format!("{WEB_USER} can't read {}", users.display()),
            format!("chown root:{WEB_USER} {0} && chmod 640 {0}", users.display()),
        ));
    }
    Ok(Seen::well((), format!("{count} people have a password")))
}

/// Which registry this is. It is looked at first, so that nothing is made or brought up to date.
fn identity(file: &Path) -> Result<RegistryId, RegistryError> {
    Registry::inspect(file)?;
    Registry::open_to_read(file)?.read(|reader| reader.identity())
}

/// Whether upkeep has run within the time that counts as lived (see [`LONGEST_GAP`]).
fn upkeep_runs(file: &Path) -> Verdict<()> {
    const REMEDY: &str =
        "apt-get install cron, and see /etc/cron.d/vgrid; to try it: sudo -u www-data vgrid-upkeep";
    if !file.exists() {
        return Err(Problem::new("there is no registry to keep", "see the line about the registry"));
    }
    let life =
        Registry::inspect(file).and_then(|_| Registry::open_to_read(file)?.read(|reader| reader.life()));
    let life = life.or_else_do("see the line about the registry")?;
    let Some(last) = life.last else {
        return Err(Problem::new("it never ran: no lease ends, no mail is sent", REMEDY));
    };
    let since = clock::now().since(last);
    if since > LONGEST_GAP {
        return Err(Problem::new(
            format!("it last ran {}: no lease ends, no mail is sent", ago(since)),
            REMEDY,
        ));
    }
    Ok(Seen::well((), format!("it ran {}", ago(since))))
}

fn registry(file: &Path, web: &nix::unistd::User) -> Verdict<()> {
    use std::os::unix::fs::MetadataExt as _;
    rights::private_folder(file.parent().unwrap_or(Path::new("/")), web)?;
    let path = file.display();
    let facts = match std::fs::metadata(file) {
        Ok(facts) => facts,
        Err(error) => {
            return Err(Problem::new(
                format!("{path}: {}", rights::words(&error)),
                "mount its disk, or bring it back: vgrid-registry restore FILE; only for a new portal: vgrid-registry init",
            ));
        }
    };
    if facts.is_file() && facts.uid() != web.uid.as_raw() || facts.mode() & 0o600 != 0o600 {
        return Err(Problem::new(
            format!("{WEB_USER} can't write {path}"),
            format!("chown {WEB_USER}: {path}* && chmod u+rw {path}*"),
        ));
    }
    let version = Registry::inspect(file).map_err(|error| {
        let remedy = match error {
            RegistryError::TooNew { .. } => "install the newer vGrid again",
            RegistryError::NotRegistry { .. } => "move it away, then: vgrid-registry restore FILE",
            _ => "bring back a backup: vgrid-registry restore FILE",
        };
        let why = match &error {
            RegistryError::NotRegistry { what, .. } => format!("{path} is no registry: {what}"),
            error => format!("{path}: {error}"),
        };
        Problem::new(why, remedy)
    })?;
    if facts.mode() & 0o027 != 0 {
        return Err(Problem::new(
            format!("{path} can be read by everybody, or written by its group"),
            format!("chmod 640 {path}"),
        ));
    }
    let alike = Registry::names_alike(file).or_else_do("bring back a backup: vgrid-registry restore FILE")?;
    let alike = alike.iter().map(|(known, later)| {
        format!(
            "; {known:?} and {later:?} are two people here, though only capitals or encoding tell them apart"
        )
    });
    Ok(Seen::well((), format!("{path}, version {version}{}", alike.collect::<String>())))
}

/// Whether every program is there and nobody but root can change it. Asking for a page does not tell: who has not
/// signed in is turned away before Apache looks.
fn programs() -> Verdict<()> {
    use std::os::unix::fs::MetadataExt as _;
    let install = "make install PARTS=server";
    let names = ENDPOINTS.iter().map(|endpoint| endpoint.name).filter(|name| !name.starts_with("node/"));
    for name in names {
        let path = Path::new(PROGRAMS).join(name);
        let facts = rights::facts(&path, install)?;
        if !facts.is_file() || !rights::is_roots_alone(&facts) || facts.mode() & 0o111 != 0o111 {
            return Err(Problem::new(
                format!("{} is no program that is root's alone", path.display()),
                format!("chown root {0} && chmod 755 {0}", path.display()),
            ));
        }
    }
    Ok(Seen::well((), PROGRAMS))
}

/// Whether every page asks who is there, and the door for nodes is closed to strangers.
fn portal_answers(own: &Own<'_>) -> Verdict<()> {
    let mut statuses = Vec::new();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.name.starts_with("user/")) {
        let answer = own.ask(endpoint.name, false)?;
        if !matches!(answer.status, 301..=308 | 401 | 403) {
            return Err(Problem::new(
                format!("{} answers HTTP {} to somebody who has not signed in", endpoint.name, answer.status),
                "a2enmod cgid, see htaccess in the configuration, and: systemctl restart apache2",
            ));
        }
        statuses.push(answer.status.to_string());
    }
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.name.starts_with("internal/")) {
        own.must_refuse(endpoint.name, true)?;
    }
    statuses.dedup();
    Ok(Seen::well((), format!("strangers are sent to sign in (HTTP {})", statuses.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_checked() {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/templates"));
        let mut files: Vec<String> = std::fs::read_dir(dir.join("page"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "layout.html")
            .collect();
        files.sort();
        let mut pages = PAGES.to_vec();
        pages.sort_unstable();
        assert_eq!(files, pages);
        for name in PAGES {
            page::check(dir, name).unwrap();
        }
    }
}
