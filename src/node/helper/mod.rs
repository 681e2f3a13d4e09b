//! The helper: all that runs as root, `vgrid-helper VERB ARGUMENTS…`.
//!
//! Each argument is parsed into its type before anything happens. Nothing else comes from outside: not the
//! environment, not a path. The configuration is that of `/etc/vgrid`, and every folder that a file is opened
//! in must be root's alone (see [`trust`]). What changes something holds the machine's lock (see [`guard`]) and
//! touches only what carries the machine's id: volumes by their tag, the configuration file by its first line,
//! the domain by its UUID. The one verb that is about something else, [`discard`], is refused unless the host's root has
//! allowed it.
//!
//! Success is exit status 0, with JSON on standard output where the verb has an answer. Failure is 1, with a
//! [`Fault`] as JSON on standard output (on standard error for `pack`, whose standard output is the archive) and a
//! sentence on standard error. Bad usage is 2.

pub(super) mod consoles;
mod discard;
mod guard;
pub mod limits;
mod machine;
mod pack;
pub(super) mod trust;
mod unpack;
mod volumes;

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::config::{self, ImageSettings};
use crate::model::fault::Fault;
use crate::model::names::{
    ImageTag, MachineName, NameFault, RequestId, StrangerDomain, StrangerVolume, UserName, VmId,
};
use crate::model::size::{GiB, MiB};
use crate::system::detach;
use crate::system::log::{self, Level};

use super::hypervisor::{self, Hypervisor, HypervisorError};
use super::lvm::{Lvm, LvmError};
use guard::MachineLock;
pub use pack::Beginning;
pub(super) use pack::as_nobody;

#[derive(Debug, Parser)]
#[command(
    name = "vgrid-helper",
    version,
    about = "What a vGrid node does as root",
    disable_help_subcommand = true
)]
struct Cli {
    /// The id of the request that this is for, which goes into the log
    #[arg(long)]
    request: Option<RequestId>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell what the host has, as JSON
    Info,
    /// Make a machine's volumes
    MakeVolumes {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        /// The size of its root partition in GiB
        disk: GiB,
    },
    /// Make the file system and the swap area on a machine's volumes
    MakeFilesystems {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
    },
    /// Unpack the plain tar archive on standard input into a machine's root volume
    Unpack {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
    },
    /// Write the file system of a stopped machine to standard output: a line of JSON, then a plain tar archive
    Pack {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
    },
    /// Render, check and install a machine's configuration
    Configure {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        /// Its memory in MiB
        memory: MiB,
        /// Its address
        ip: Ipv4Addr,
        /// Its owner's name, percent-encoded
        user: Owner,
    },
    /// Start a machine
    Start {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its memory in MiB, to say what was needed if there is not enough
        memory: MiB,
    },
    /// Watch a machine until it is seen to run
    Verify {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
    },
    /// Shut a machine down, forcing it after a while, and keep it from starting with the host
    Stop {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
    },
    /// Remove all of a machine: processes, domain, configuration, volumes
    Undo {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
    },
    /// Tell the last part of a machine's console log, as JSON
    Console {
        /// The machine's name, USER_HOST
        machine: MachineName,
        /// At most so many bytes
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
        bytes: u32,
    },
    /// Remove the console log of a machine that is gone
    ForgetConsole {
        /// The machine's name, USER_HOST
        machine: MachineName,
    },
    /// Remove something that vGrid did not make, where node.cfg says removeStrangers = true
    #[command(disable_help_subcommand = true)]
    Discard {
        #[command(subcommand)]
        stranger: Stranger,
    },
}

#[derive(Debug, Subcommand)]
enum Stranger {
    /// A volume of the volume group that carries no tag of vGrid's and is not in use
    Volume {
        /// Its name, which begins with xen-root- or xen-swap-
        name: StrangerVolume,
    },
    /// A domain that vGrid has no configuration of
    Domain {
        /// Its name
        name: StrangerDomain,
        /// Its number, as it was listed: below xen.h's DOMID_FIRST_RESERVED
        #[arg(value_parser = clap::value_parser!(u32).range(1..0x7FF0))]
        number: u32,
    },
}

/// The name of a machine's owner as [`UserName::encoded`] writes it, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner(UserName);

impl FromStr for Owner {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let decoded: Vec<u8> = percent_decode_str(text).collect();
        let user = UserName::from_bytes(&decoded)?;
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._~%".contains(*c))) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None if user.encoded() != text => Err(NameFault::BadCharacter('%')),
            None => Ok(Self(user)),
        }
    }
}

/// Why a verb was not carried out: what its caller gets, and what only root's log says.
#[derive(Debug)]
pub(super) struct Failure {
    fault: Option<Fault>,
    pub(super) detail: String,
}

impl Failure {
    /// A failure that no user can do anything about.
    fn internal(detail: impl std::fmt::Display) -> Self {
        Self { fault: None, detail: detail.to_string() }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { detail: fault.to_string(), fault: Some(fault) }
    }
}

/// The program's `main`.
pub fn main() -> ExitCode {
    if let Err(error) = detach::start_afresh().and_then(|()| detach::cut_off()) {
        say(&mut io::stderr(), &format!("vgrid-helper: can't detach: {error}"));
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse();
    if !nix::unistd::geteuid().is_root() {
        say(&mut io::stderr(), "vgrid-helper: only root can do this; call it through sudo");
        return ExitCode::FAILURE;
    }
    if let Err(error) = guard::lift_limits() {
        say(&mut io::stderr(), &format!("vgrid-helper: can't set limits: {error}"));
        return ExitCode::FAILURE;
    }
    let request = cli.request.unwrap_or_else(RequestId::generate);
    log::start("helper", request.clone(), None);
    let is_stream = matches!(cli.verb, Verb::Pack { .. });
    match run(cli.verb) {
        Ok(answer) => {
            if let Some(answer) = answer {
                say(&mut io::stdout(), &answer);
            }
            ExitCode::SUCCESS
        }
        Err(Failure { fault, detail }) => {
            log::event(Level::Warning, "helper.failed", &[("why", &detail)]);
            let fault = fault.unwrap_or_else(|| Fault::Internal { request: request.to_string() });
            let fault = serde_json::to_string(&fault).unwrap_or_default();
            if is_stream {
                say(&mut io::stderr(), &fault);
            } else {
                say(&mut io::stdout(), &fault);
            }
            say(&mut io::stderr(), &format!("vgrid-helper: {detail}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to a reader who may be gone.
fn say(stream: &mut impl io::Write, line: &str) {
    // The work is done or undone whether or not somebody reads about it.
    let _ = writeln!(stream, "{line}").and_then(|()| stream.flush());
}

fn answer(message: &impl Serialize) -> Result<Option<String>, Failure> {
    serde_json::to_string(message).map(Some).map_err(Failure::internal)
}

fn run(verb: Verb) -> Result<Option<String>, Failure> {
    let dir = trust::directory(Path::new(config::DEFAULT_DIR))?;
    trust::file(&dir.join("node.cfg"))?;
    let host = Host { config: config::Node::load(&dir).map_err(Failure::internal)?, dir };
    match verb {
        Verb::Info => {
            host.trim_consoles();
            return answer(&host.state());
        }
        Verb::Console { machine, bytes } => return answer(&host.console(&machine, bytes)?),
        Verb::ForgetConsole { machine } => host.forget_console(&machine)?,
        Verb::MakeVolumes { id, machine, image, disk } => {
            let lock = MachineLock::take(id, &machine)?;
            host.make_volumes(&lock, &host.image(&image)?, disk)?;
        }
        Verb::MakeFilesystems { id, machine, image } => {
            let lock = MachineLock::take(id, &machine)?;
            host.make_filesystems(&lock, &host.image(&image)?)?;
        }
        Verb::Unpack { id, machine, image } => {
            let lock = MachineLock::take(id, &machine)?;
            host.unpack(&lock, &image)?;
        }
        Verb::Pack { id, machine } => {
            let lock = MachineLock::take(id, &machine)?;
            host.pack(&lock)?;
        }
        Verb::Configure { id, machine, image, memory, ip, user } => {
            let lock = MachineLock::take(id, &machine)?;
            host.configure(&lock, &host.image(&image)?, memory, ip, &user.0)?;
        }
        Verb::Start { id, machine, memory } => {
            let lock = MachineLock::take(id, &machine)?;
            host.start(&lock, memory)?;
        }
        Verb::Verify { id, machine } => host.verify(id, &machine)?,
        Verb::Stop { id, machine } => {
            let lock = MachineLock::take_over(id, &machine)?;
            host.stop(&lock)?;
        }
        Verb::Undo { id, machine } => {
            let lock = MachineLock::take_over(id, &machine)?;
            host.undo(&lock)?;
        }
        Verb::Discard { stranger: Stranger::Volume { name } } => host.discard_volume(&name)?,
        Verb::Discard { stranger: Stranger::Domain { name, number } } => {
            host.discard_domain(&name, number)?;
        }
    }
    Ok(None)
}

/// The host, by its configuration.
struct Host {
    config: config::Node,
    dir: std::path::PathBuf,
}

impl Host {
    fn lvm(&self) -> Lvm<'_> {
        Lvm::new(&self.config.general.volume_group_name)
    }

    fn hypervisor(&self) -> Result<Box<dyn Hypervisor>, HypervisorError> {
        hypervisor::open(config::VmType::Xen, self.config.general.toolstack)
    }

    fn image(&self, tag: &ImageTag) -> Result<ImageSettings, Failure> {
        self.config.image(tag).map_err(|error| Failure {
            fault: Some(Fault::ImageUnknown { tag: tag.clone() }),
            detail: error.to_string(),
        })
    }
}

impl From<LvmError> for Failure {
    /// For what does not depend on which machine it was about.
    fn from(error: LvmError) -> Self {
        let detail = error.to_string();
        let fault = match error {
            LvmError::GroupMissing(group) => Some(Fault::VolumeGroupMissing { name: group.to_string() }),
            LvmError::TimedOut { what, seconds } => Some(Fault::TimedOut { what: what.to_owned(), seconds }),
            _ => None,
        };
        Self { fault, detail }
    }
}

impl From<HypervisorError> for Failure {
    /// For what does not depend on which machine it was about.
    fn from(error: HypervisorError) -> Self {
        let detail = error.to_string();
        let fault = match error {
            HypervisorError::TimedOut { what, seconds } => {
                Some(Fault::TimedOut { what: what.to_owned(), seconds })
            }
            HypervisorError::Missing(_) | HypervisorError::Other(_) | HypervisorError::Busy(_) => {
                Some(Fault::ToolstackMissing { detail: detail.clone() })
            }
            _ => None,
        };
        Self { fault, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["vgrid-helper"].iter().chain(args))
    }

    const ID: &str = "019dd5a3-2f3a-7c11-9d9b-0123456789ab";

    #[test]
    fn well_formed_calls_are_understood() {
        parse(&["info"]).unwrap();
        parse(&["--request", "abc123", "make-volumes", ID, "alice_vm1", "tiny", "1"]).unwrap();
        parse(&["configure", ID, "J+C3+BC_vm1", "tiny", "128", "10.0.2.21", "J%C3%BC"]).unwrap();
        parse(&["stop", ID, "alice_vm1"]).unwrap();
        parse(&["pack", ID, "alice_vm1"]).unwrap();
        parse(&["undo", ID, "alice_vm1"]).unwrap();
        parse(&["discard", "volume", "xen-root-old"]).unwrap();
        parse(&["discard", "domain", "somebody", "7"]).unwrap();
    }

    #[test]
    fn hostile_calls_are_refused_before_anything_happens() {
        for args in [
            &[][..],
            &["nonsense"],
            &["undo"],
            &["undo", ID],
            &["undo", ID, "alice_vm1", "bob_vm1"],
            &["undo", "1", "alice_vm1"],
            &["undo", ID, "../alice_vm1"],
            &["undo", ID, "-f"],
            &["undo", ID, "--help-me"],
            &["undo", ID, "alice_vm1/../../etc"],
            &["undo", ID, "Domain-0"],
            &["undo", ID, "alice_vm1\n"],
            &["make-volumes", ID, "alice_vm1", "tiny", "0"],
            &["make-volumes", ID, "alice_vm1", "tiny", "99999999999999999999"],
            &["make-volumes", ID, "alice_vm1", "../../etc/passwd", "1"],
            &["make-volumes", ID, "alice_vm1", "tiny", "1", "--addtag"],
            &["pack"],
            &["pack", ID],
            &["pack", ID, "alice_vm1", "/var/lib/vgrid/images/alice_x.tar.gz"],
            &["pack", ID, "--directory=/etc"],
            &["pack", ID, "alice_vm1/.."],
            &["pack", "x", "alice_vm1"],
            &["configure", ID, "alice_vm1", "tiny", "128", "10.0.2.21; reboot", "alice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "10.0.2.21", "al ice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "10.0.2.21", "al\"ice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "10.0.2.21", "%61lice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "10.0.2.21", "%ff"],
            &["console", "alice_vm1", "0"],
            &["console", "alice_vm1", "4294967295"],
            &["console", "/etc/shadow", "100"],
            &["discard"],
            &["discard", "help"],
            &["discard", "volume"],
            &["discard", "image", "xen-root-x"],
            &["discard", "xen-root-x"],
            &["discard", "volume", "root"],
            &["discard", "volume", "vg1/xen-root-x"],
            &["discard", "volume", "/dev/vg1/xen-root-x"],
            &["discard", "volume", "xen-root-"],
            &["discard", "volume", "xen-root-../root"],
            &["discard", "volume", "xen-root-x", "root"],
            &["discard", "volume", "xen-root-x", "-y"],
            &["discard", "volume", "--select=all"],
            &["discard", "volume", "-ff"],
            &["discard", "volume", "xen-root-x\n"],
            &["discard", "volume", "@vgrid"],
            &["discard", "domain"],
            &["discard", "domain", "somebody"],
            &["discard", "domain", "7"],
            &["discard", "domain", "7", "7"],
            &["discard", "domain", "Domain-0", "0"],
            &["discard", "domain", "Domain-0", "1"],
            &["discard", "domain", "(null)", "7"],
            &["discard", "domain", "somebody", "0"],
            &["discard", "domain", "somebody", "-1"],
            &["discard", "domain", "somebody", "32752"],
            &["discard", "domain", "somebody", "4294967297"],
            &["discard", "domain", "somebody", "7", "8"],
            &["discard", "domain", "some body", "7"],
            &["discard", "domain", "some/body", "7"],
            &["discard", "domain", "some'body", "7"],
            &["discard", "domain", "--all", "7"],
            &["discard", "domain", "", "7"],
            &["--request", "a b", "info"],
            &["--config", "/tmp", "info"],
        ] {
            let error = parse(args).expect_err(&format!("{args:?} was accepted"));
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
    }
}
