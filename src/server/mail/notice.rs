//! The notices, and what their templates receive.

use serde::Serialize;
use strum::{IntoStaticStr, VariantNames};

use crate::config;
use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::model::names::{PhysicalHost, is_invisible};
use crate::model::wire::PoolFill;
use crate::server::registry::orphan::Orphan;
use crate::server::registry::vm::Vm;

/// A notice to an owner or to administrators. Each kind has a pair of templates.
#[derive(Debug, Clone, Copy, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Notice<'a> {
    /// To the owner: the lease ends soon.
    LeaseEnds {
        /// The machine.
        machine: &'a Vm,
        /// When it ends.
        ends: Moment,
    },
    /// To the owner: the lease has ended; the machine is stopped and its disk kept.
    LeaseEnded {
        /// The machine.
        machine: &'a Vm,
        /// The earliest time at which its disk is removed.
        deletion: Moment,
    },
    /// To the owner: the machine was terminated after the grace period.
    Deleted {
        /// The machine, as it was.
        machine: &'a Vm,
    },
    /// To the owner: the machine does not answer pings. The machine's record has the number of
    /// missed pings.
    Silent {
        /// The machine.
        machine: &'a Vm,
    },
    /// To the owner: the machine was terminated because it did not answer.
    SilentTerminated {
        /// The machine, as it was.
        machine: &'a Vm,
    },
    /// To administrators: a machine could not be deployed, for a reason that concerns them (see
    /// [`Fault::concerns_administrators`]).
    DeployFailed {
        /// The machine.
        machine: &'a Vm,
        /// The reason.
        fault: &'a Fault,
    },
    /// To administrators: a host does not answer.
    HostVanished {
        /// The host.
        host: &'a PhysicalHost,
        /// When it stopped answering.
        since: Moment,
        /// What happened instead of an answer.
        reason: &'a str,
        /// The number of machines on it.
        machines: u32,
    },
    /// To administrators: a host that did not answer is back.
    HostBack {
        /// The host.
        host: &'a PhysicalHost,
        /// When it had stopped answering.
        since: Moment,
    },
    /// To administrators: a host's thin pool is filling up.
    PoolFills {
        /// The host.
        host: &'a PhysicalHost,
        /// How full it is.
        fill: PoolFill,
    },
    /// To administrators: an owner has no address and can't be told about this machine.
    Unreachable {
        /// The machine.
        machine: &'a Vm,
    },
    /// To administrators: orphans on a host that they have not been told of.
    Strays {
        /// The host.
        host: &'a PhysicalHost,
        /// The orphans.
        strays: &'a [Orphan],
    },
}

/// The names of the templates.
pub(super) const KINDS: &[&str] = Notice::VARIANTS;

/// The most orphans that one mail lists.
const MOST_STRAYS: usize = 50;

#[derive(Debug, Serialize)]
pub(super) struct Context<'a> {
    /// The URL of the portal's pages.
    portal: Option<&'a str>,
    notice: Words,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Words {
    LeaseEnds { machine: Machine, ends: String, left: String, grace: String },
    LeaseEnded { machine: Machine, deletion: String },
    Gone { machine: Machine, runs: u32 },
    Silent { machine: Machine, runs: u32, limit: Option<u32> },
    Failed { machine: Machine, reason: String },
    Unreachable { machine: Machine },
    Host { host: String, since: String, reason: String, machines: u32 },
    Pool { host: String, fill: String },
    Strays { host: String, strays: Vec<Thing>, more: usize },
}

#[derive(Debug, Serialize)]
struct Machine {
    id: String,
    name: String,
    label: String,
    owner: String,
    host: String,
    image: String,
    /// Links, if the portal's URL is configured. Opening one changes nothing: each shows a page
    /// with a button.
    page: Option<String>,
    extend: Option<String>,
    terminate: Option<String>,
}

#[derive(Debug, Serialize)]
struct Thing {
    kind: &'static str,
    name: String,
    detail: String,
}

impl Machine {
    fn of(vm: &Vm, portal: Option<&str>) -> Self {
        let link = |program: &str| portal.map(|portal| format!("{portal}/{program}?id={}", vm.id));
        Self {
            id: vm.id.to_string(),
            name: vm.virtual_host.to_string(),
            label: line(vm.label.as_str()),
            owner: line(vm.owner.as_str()),
            host: vm.physical_host.to_string(),
            image: vm.spec.image.to_string(),
            page: link("show"),
            extend: link("extend"),
            terminate: link("terminate"),
        }
    }
}

impl Notice<'_> {
    /// Returns the name of its templates.
    pub(super) fn kind(&self) -> &'static str {
        self.into()
    }

    /// Returns the values for its templates.
    pub(super) fn context<'c>(&self, config: &'c config::Server, now: Moment) -> Context<'c> {
        let portal = config.mail.portal_url.as_deref();
        let of = |vm: &Vm| Machine::of(vm, portal);
        let notice = match self {
            Self::LeaseEnds { machine, ends } => Words::LeaseEnds {
                machine: of(machine),
                ends: ends.to_string(),
                left: span(ends.since(now)),
                grace: span(config.leases.grace.seconds()),
            },
            Self::LeaseEnded { machine, deletion } => {
                Words::LeaseEnded { machine: of(machine), deletion: deletion.to_string() }
            }
            Self::Deleted { machine } | Self::SilentTerminated { machine } => {
                Words::Gone { machine: of(machine), runs: machine.silent }
            }
            Self::Silent { machine } => {
                let limit = Some(config.upkeep.terminate_silent_runs).filter(|limit| *limit > 0);
                Words::Silent { machine: of(machine), runs: machine.silent, limit }
            }
            Self::DeployFailed { machine, fault } => {
                Words::Failed { machine: of(machine), reason: line(&fault.to_string()) }
            }
            Self::HostVanished { host, since, reason, machines } => Words::Host {
                host: host.to_string(),
                since: since.to_string(),
                reason: line(reason),
                machines: *machines,
            },
            Self::HostBack { host, since } => Words::Host {
                host: host.to_string(),
                since: since.to_string(),
                reason: String::new(),
                machines: 0,
            },
            Self::PoolFills { host, fill } => Words::Pool { host: host.to_string(), fill: fill.to_string() },
            Self::Unreachable { machine } => Words::Unreachable { machine: of(machine) },
            Self::Strays { host, strays } => Words::Strays {
                host: host.to_string(),
                strays: strays.iter().take(MOST_STRAYS).map(Thing::of).collect(),
                more: strays.len().saturating_sub(MOST_STRAYS),
            },
        };
        Context { portal, notice }
    }
}

impl Thing {
    fn of(stray: &Orphan) -> Self {
        Self { kind: stray.kind.as_str(), name: line(&stray.name), detail: line(&stray.detail) }
    }
}

/// Makes a text safe as part of a line: replaces characters that would end the line or change how
/// the rest is displayed.
pub(super) fn line(text: &str) -> String {
    text.replace(|c: char| c.is_control() || is_invisible(c), " ").trim().to_owned()
}

/// Formats a duration for people, no more exactly than they need: `3 days`, `2 hours`, `45
/// minutes`.
fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    // Upkeep runs a little late; that must not turn two hours into "115 minutes".
    let (unit, word) = match seconds {
        ..5400 => (MINUTE, "minute"),
        5400..129_600 => (HOUR, "hour"),
        129_600.. => (DAY, "day"),
    };
    let count = (seconds.max(0) + unit / 2) / unit;
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stage::Percent;
    use crate::server::mail::Post;
    use crate::server::registry::Registry;
    use crate::server::registry::orphan::OrphanKind;
    use crate::server::registry::vm::tests::entered;

    fn config(portal: &str) -> config::Server {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[General]\nEnvUsernameVariable = \"REMOTE_USER\"\ntemplateDirectory = \"{}/templates\"\n\
             [Upkeep]\nterminateSilentRuns = 48\n[Mail]\nportalURL = \"{portal}\"\n",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::write(dir.path().join("server.cfg"), text).unwrap();
        config::Server::load(dir.path()).unwrap()
    }

    fn machine() -> Vm {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let mut vm = entered(&mut registry, "jürgen", "node1", "vm1");
        vm.label = "R&D <b>«测试»</b> {{ 5 }}".parse().unwrap();
        vm.silent = 24;
        vm
    }

    #[test]
    fn every_kind_has_a_pair_of_templates_and_every_template_a_kind() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/templates/mail");
        let mut files: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !matches!(name.as_str(), "layout.html" | "footer.txt"))
            .collect();
        files.sort();
        let mut pairs: Vec<String> =
            KINDS.iter().flat_map(|kind| [format!("{kind}.html"), format!("{kind}.txt")]).collect();
        pairs.sort();
        assert_eq!(files, pairs);
    }

    #[test]
    fn every_kind_says_what_why_and_what_to_do() {
        let (now, vm) = (Moment::from_unix(1_795_338_300), machine());
        let later = now.plus_seconds(3 * 86_400 - 200);
        let host = "node1".parse().unwrap();
        let percent = |n: u64| Percent::of(n, 100);
        let fill = PoolFill { data: percent(83), metadata: percent(4) };
        let fault = Fault::HostDown { host: "node1".parse().unwrap(), detail: "refused".to_owned() };
        let strays: Vec<Orphan> = (0..60)
            .map(|n| Orphan {
                kind: OrphanKind::Volume,
                name: format!("xen-root-{n}\n<i>"),
                detail: "5 GiB".to_owned(),
            })
            .collect();
        let notices = [
            (Notice::LeaseEnds { machine: &vm, ends: later }, "in 3 days, on 2026-11-25 09:01 UTC"),
            (Notice::LeaseEnded { machine: &vm, deletion: later }, "kept until 2026-11-25 09:01 UTC"),
            (Notice::Deleted { machine: &vm }, "not extended while its disk was kept"),
            (Notice::Silent { machine: &vm }, "After 48 unanswered pings it is terminated"),
            (Notice::SilentTerminated { machine: &vm }, "24 pings in a row"),
            (Notice::DeployFailed { machine: &vm, fault: &fault }, "can't be reached (refused)"),
            (
                Notice::HostVanished { host: &host, since: now, reason: "no\r\nanswer", machines: 2 },
                "2 machines are",
            ),
            (Notice::HostBack { host: &host, since: now }, "had not answered since 2026-11-22"),
            (Notice::PoolFills { host: &host, fill }, "83% of its space for data, 4% of that for metadata"),
            (Notice::Unreachable { machine: &vm }, "has no mail address"),
            (Notice::Strays { host: &host, strays: &strays }, "and 10 more"),
        ];
        assert_eq!(notices.map(|(notice, _)| notice.kind()), KINDS);
        for portal in ["", "https://portal.example.org/cgi-bin/user/"] {
            let config = config(portal);
            for (notice, words) in &notices {
                let kind = notice.kind();
                let mail = Post::new(&config).compose(notice, now).unwrap();
                assert!(!mail.subject.is_empty() && !mail.subject.contains(['\n', '{']), "{}", mail.subject);
                let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
                let (plain, html) =
                    (flat(&mail.plain), flat(&mail.html.replace("&#x27;", "'").replace("&#39;", "'")));
                for text in [&plain, &html.replace("<b>", "").replace("</b>", "")] {
                    assert!(text.contains(words), "{kind}: {text}");
                    assert!(text.contains("vGrid sends this to "), "{kind}: {text}");
                }
                assert_eq!(plain.contains("https://"), !portal.is_empty(), "{kind}: {plain}");
                assert_eq!(html.contains("https://"), !portal.is_empty(), "{kind}: {html}");
                // What people enter appears unchanged and is never treated as markup.
                if mail.plain.contains("R&D") {
                    assert!(plain.contains("R&D <b>«测试»</b> {{ 5 }}"), "{plain}");
                    assert!(html.contains("R&amp;D &lt;b&gt;«测试»"), "{html}");
                }
                assert!(!html.contains("<i>"), "{html}");
                assert!(!mail.plain.contains("\n\n\n"), "{kind}: {:?}", mail.plain);
                assert!(!plain.contains("{{ n") && !plain.contains("{%"), "{plain}");
            }
        }
        let config = config("https://portal.example.org/cgi-bin/user/");
        let mail = Post::new(&config).compose(&notices[0].0, now).unwrap();
        assert_eq!(mail.subject, "vm1: its lease ends in 3 days");
        for text in [&mail.plain, &mail.html] {
            let link = format!("https://portal.example.org/cgi-bin/user/extend?id={}", vm.id);
            assert!(text.contains(&link), "{text}");
        }
    }

    #[test]
    fn spans_are_rounded_for_people() {
        for (seconds, words) in [
            (-5, "0 minutes"),
            (60, "1 minute"),
            (45 * 60, "45 minutes"),
            (2 * 3600 - 290, "2 hours"),
            (86_400 - 290, "24 hours"),
            (3 * 86_400 - 290, "3 days"),
            (7 * 86_400, "7 days"),
        ] {
            assert_eq!(span(seconds), words);
        }
    }
}
