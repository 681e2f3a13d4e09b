//! One run of the helper, from its arguments to its exit status.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use serde::Serialize;

use super::failure::Failure;
use super::guard::{self, MachineLock};
use super::host::Host;
use super::source::Source;
use super::{Cli, Foreign, Saved, Verb};
use crate::config;
use crate::model::fault::Fault;
use crate::model::names::RequestId;
use crate::model::size::Amount;
use crate::node::hypervisor::Boot;
use crate::node::storage::Listing;
use crate::node::{Machine, trust};
use crate::system::detach;
use crate::system::log::{self, Level};

/// The `main` function of the program.
pub fn main() -> ExitCode {
    if let Err(error) = detach::reexec_clean().and_then(|()| detach::detach_process()) {
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
    let is_stream = matches!(
        cli.verb,
        Verb::Pack { .. }
            | Verb::PackDisk { .. }
            | Verb::UnpackImage { .. }
            | Verb::PrepareImage { .. }
            | Verb::UnpackSnapshot { .. }
            | Verb::GrowVolume { .. }
    );
    match this_host().and_then(|host| run(&host, cli.verb)) {
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

/// Reads the configuration of this host.
fn this_host() -> Result<Host, Failure> {
    let dir = trust::directory(Path::new(config::DEFAULT_DIR))?;
    trust::file(&dir.join("node.cfg"))?;
    let config = config::Node::load(&dir).map_err(Failure::internal)?;
    Ok(Host { config, dir, listing: Listing::default() })
}

fn run(host: &Host, verb: Verb) -> Result<Option<String>, Failure> {
    match verb {
        Verb::Info => {
            host.trim_consoles();
            let mut state = host.state();
            host.finish_roll_backs(&mut state);
            host.mend_boot(&state);
            return answer(&state);
        }
        Verb::Console { machine, bytes } => return answer(&host.console(&machine, bytes)?),
        Verb::MakeVolumes { id, machine, image, disk, original } => {
            let lock = MachineLock::take(id, &machine)?;
            host.make_volumes(&lock, &image, &host.image(&image)?, disk, original.get())?;
        }
        Verb::MakeFilesystems { id, machine, image, original } => {
            let lock = MachineLock::take(id, &machine)?;
            return answer(&host.make_filesystems(&lock, &image, &host.image(&image)?, original.get())?);
        }
        Verb::Unpack { id, machine, image } => {
            let lock = MachineLock::take(id, &machine)?;
            host.unpack(&lock, &image)?;
        }
        Verb::UnpackImage { id, machine, image, saved } => {
            let lock = MachineLock::take(id, &machine)?;
            let (settings, saved) = (host.image(&image)?, saved.as_ref().map(|Saved(image)| image));
            host.unpack_image(&lock, Source { tag: &image, settings: &settings, saved })?;
        }
        Verb::PrepareImage { image } => host.prepare_image(&image, &host.image(&image)?)?,
        Verb::UnpackSnapshot { id, machine, image, of, name } => {
            let lock = MachineLock::take(id, &machine)?;
            host.unpack_snapshot(&lock, &image, &host.image(&image)?, of, &name)?;
        }
        Verb::WriteDisk { id, machine, image } => {
            let lock = MachineLock::take(id, &machine)?;
            host.write_disk(&lock, &image)?;
        }
        Verb::MakeSeed { id, machine, image, ip, user } => {
            let lock = MachineLock::take(id, &machine)?;
            host.make_seed(&lock, &host.image(&image)?, ip, &user.0)?;
        }
        Verb::PackDisk { id, machine } => {
            let lock = MachineLock::take(id, &machine)?;
            host.pack_disk(&lock)?;
        }
        Verb::Pack { id, machine } => {
            let lock = MachineLock::take(id, &machine)?;
            host.pack(&lock)?;
        }
        Verb::GrowVolume { id, machine, disk } => {
            let lock = MachineLock::take(id, &machine)?;
            host.grow_volume(&lock, disk)?;
        }
        Verb::TakeSnapshot { id, machine, name, reserved } => {
            let lock = MachineLock::take(id, &machine)?;
            return answer(&host.take_snapshot(&lock, &name, Amount::from_mib(reserved))?);
        }
        Verb::RollBack { id, machine, name } => {
            let lock = MachineLock::take(id, &machine)?;
            return answer(&host.roll_back(&lock, &name)?);
        }
        Verb::AsNew { id, machine, image, reserved } => {
            let lock = MachineLock::take(id, &machine)?;
            let reserved = Amount::from_mib(reserved);
            return answer(&host.as_new(&lock, &image, &host.image(&image)?, reserved)?);
        }
        Verb::DeleteSnapshot { id, machine, name } => {
            let lock = MachineLock::take(id, &machine)?;
            return answer(&host.delete_snapshot(&lock, &name)?);
        }
        Verb::Configure { id, machine, image, memory, cpus, ip, user, if_moved, stopped } => {
            let lock = MachineLock::take(id, &machine)?;
            let Some(boot) = boot(host, &lock, if_moved, stopped)? else { return Ok(None) };
            host.configure(&lock, &host.image(&image)?, memory, cpus, ip, &user.0, boot)?;
            if if_moved || stopped {
                host.leave_others(&lock)?;
            }
        }
        Verb::Start { id, machine, memory } => {
            let lock = MachineLock::take(id, &machine)?;
            return answer(&host.start(&lock, memory)?);
        }
        Verb::Verify { id, machine } => host.verify(&Machine { id, name: machine })?,
        Verb::Stop { id, machine } => {
            let lock = MachineLock::take_over(id, &machine)?;
            return answer(&host.stop(&lock)?);
        }
        Verb::Undo { id, machine, forget_console } => {
            let lock = MachineLock::take_over(id, &machine)?;
            let state = host.undo(&lock)?;
            if forget_console {
                host.forget_console(&lock.machine);
            }
            return answer(&state);
        }
        Verb::Discard { stranger: Foreign::Volume { name } } => host.discard_volume(&name)?,
        Verb::Discard { stranger: Foreign::Domain { name, number } } => {
            host.discard_domain(&name, number)?;
        }
    }
    Ok(None)
}

/// Returns whether a machine is to be started with the host, or `None` if it is where it is to be.
fn boot(host: &Host, lock: &MachineLock, if_moved: bool, stopped: bool) -> Result<Option<Boot>, Failure> {
    if if_moved {
        return host.must_move(lock);
    }
    if stopped {
        host.must_rest(lock)?;
        return Ok(Some(Boot::Off));
    }
    Ok(Some(Boot::WithHost))
}

fn answer(message: &impl Serialize) -> Result<Option<String>, Failure> {
    serde_json::to_string(message).map(Some).map_err(Failure::internal)
}

/// Writes a line to a stream, ignoring errors.
fn say(stream: &mut impl io::Write, line: &str) {
    // The work is done, whether or not anybody reads about it.
    let _ = writeln!(stream, "{line}").and_then(|()| stream.flush());
}
