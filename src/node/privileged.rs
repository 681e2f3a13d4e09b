//! Calls to the helper through sudo, with one method per verb.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ChildStdin, ChildStdout};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::model::fault::Fault;
use crate::model::names::{ImageTag, MachineName, RequestId, SavedImage, SnapshotName, VmId};
use crate::model::public_keys::PublicKeys;
use crate::model::size::{Amount, GiB, MiB};
use crate::model::spec::SnapshotOf;
use crate::model::stage::Percent;
use crate::model::wire::{ConsoleTail, DeployOrder, Foreign};
use crate::system::exec::{ExecError, ProgramOutput, Run};
use crate::system::log::{self, Level};

use super::HELPER;
use super::helper::{Filling, PackHeader, Stand, limits};
use super::host::{HostState, Storage};

const SUDO: &str = "/usr/bin/sudo";

/// The time that sudo gets in addition to the helper's own time limits. A process running as root
/// can't be killed from here, so the helper's limits must expire first.
const MARGIN: Duration = Duration::from_secs(20);

/// What the root disk of a new machine may be a clone of, if that is prepared on the host.
#[derive(Debug)]
pub enum Origin<'a> {
    /// Nothing.
    Nothing,
    /// The image.
    Image,
    /// A saved image, whose file has been opened for this machine, and not been read yet.
    Saved(&'a SavedImage, File),
}

impl Origin<'_> {
    /// Passes it to a verb of the helper.
    fn pass_to(self, command: Run) -> Run {
        match self {
            Self::Nothing => command,
            Self::Image => command.arg("--own-image"),
            Self::Saved(image, file) => command.arg(saved(image)).input_file(file),
        }
    }
}

/// Returns the argument that names a saved image.
fn saved(image: &SavedImage) -> String {
    format!("--saved={}", image.stem())
}

/// Calls the helper on behalf of one request.
#[derive(Debug, Clone)]
pub struct Helper {
    request: RequestId,
}

impl Helper {
    /// Creates a caller of the helper; `request` is passed on for its log.
    pub fn new(request: &RequestId) -> Self {
        Self { request: request.clone() }
    }

    fn command(&self, verb: &str, args: &[&str], limit: Duration) -> Run {
        Run::new(SUDO)
            .args(["-n", HELPER, "--request", self.request.as_str(), verb])
            .args(args.iter().copied())
            .limit(limit + MARGIN)
    }

    fn call(&self, verb: &str, args: &[&str], limit: Duration) -> Result<ProgramOutput, Fault> {
        self.command(verb, args, limit).run().map_err(|error| self.explain(verb, &error))
    }

    fn explain(&self, verb: &str, error: &ExecError) -> Fault {
        match error {
            ExecError::Failed { stdout, stderr, status, .. } => {
                // On standard error if standard output is a stream.
                let lines = std::iter::once(stdout.as_slice()).chain(stderr.lines().map(str::as_bytes));
                if let Some(fault) = lines.into_iter().find_map(|text| serde_json::from_slice(text).ok()) {
                    return fault;
                }
                // sudo ends by the same signal as its program, or with 128 plus the signal's
                // number.
                if status.signal().is_some() || status.code().is_some_and(|code| code > 128) {
                    return Fault::Interrupted { stage: None };
                }
                // sudo's own messages begin with its name, the helper's with the helper's name.
                if stderr.lines().any(|line| line.starts_with("sudo: ") || line.starts_with("Sorry, user")) {
                    return Fault::PrivilegeRefused;
                }
                Fault::Internal { request: self.request.to_string() }
            }
            ExecError::NotStarted { .. } => Fault::PrivilegeRefused,
            ExecError::TimedOut { limit, .. } => {
                Fault::TimedOut { what: format!("The work on the host ({verb})"), seconds: limit.as_secs() }
            }
            ExecError::Pipe { .. } => Fault::Internal { request: self.request.to_string() },
        }
    }

    fn read<T: DeserializeOwned>(&self, output: &ProgramOutput) -> Result<T, Fault> {
        serde_json::from_slice(&output.stdout).map_err(|error| {
            log::event(Level::Error, "helper.garbled", &[("why", &error)]);
            Fault::Internal { request: self.request.to_string() }
        })
    }

    /// Returns the host's state.
    pub fn info(&self) -> Result<HostState, Fault> {
        self.read(&self.call("info", &[], limits::INFO)?)
    }

    /// Creates the machine's volumes, the root volume as a clone where that is less work.
    pub fn make_volumes(
        &self,
        id: VmId,
        machine: &MachineName,
        image: &ImageTag,
        disk: GiB,
        origin: Origin<'_>,
    ) -> Result<(), Fault> {
        let (id, disk) = (id.to_string(), disk.get().to_string());
        let command =
            self.command("make-volumes", &[&id, machine.as_str(), image.as_str(), &disk], limits::VOLUMES);
        origin.pass_to(command).run().map(|_| ()).map_err(|error| self.explain("make-volumes", &error))
    }

    /// Creates the file system and the swap area, or a clone where there is something to clone. Returns
    /// how the root disk is to be filled.
    pub fn make_filesystems(
        &self,
        id: VmId,
        machine: &MachineName,
        image: &ImageTag,
        origin: Origin<'_>,
    ) -> Result<Filling, Fault> {
        let args = [&id.to_string(), machine.as_str(), image.as_str()];
        let command = origin.pass_to(self.command("make-filesystems", &args, limits::FILESYSTEMS));
        self.read(&command.run().map_err(|error| self.explain("make-filesystems", &error))?)
    }

    /// Unpacks the file of the image, or of a saved image, from which nothing has been read yet. `note`
    /// receives the progress, and returns whether to continue.
    pub fn unpack_image(
        &self,
        id: VmId,
        machine: &MachineName,
        image: &ImageTag,
        saved: Option<&SavedImage>,
        file: File,
        mut note: impl FnMut(Percent) -> bool,
    ) -> Result<(), Fault> {
        let args = [&id.to_string(), machine.as_str(), image.as_str()];
        let command = self.command("unpack-image", &args, limits::UNPACK_IMAGE).args(saved.map(self::saved));
        self.follow("unpack-image", command.input_file(file), &mut note)
    }

    /// Prepares an image before somebody deploys it, from its own file, from which nothing has been read
    /// yet. Idempotent.
    pub fn prepare_image(&self, image: &ImageTag, file: File) -> Result<(), Fault> {
        let args = [image.as_str()];
        let command = self.command("prepare-image", &args, limits::PREPARE_IMAGE).input_file(file);
        self.follow("prepare-image", command, &mut |_| true)
    }

    /// Fills the root disk of a machine from a snapshot of another. `note` receives the progress, and
    /// returns whether to continue.
    pub fn unpack_snapshot(
        &self,
        id: VmId,
        machine: &MachineName,
        image: &ImageTag,
        from: &SnapshotOf,
        mut note: impl FnMut(Percent) -> bool,
    ) -> Result<(), Fault> {
        let (id, of) = (id.to_string(), from.machine.to_string());
        let args = [&id, machine.as_str(), image.as_str(), &of, from.name.as_str()];
        let command = self.command("unpack-snapshot", &args, limits::UNPACK_IMAGE);
        self.follow("unpack-snapshot", command, &mut note)
    }

    /// Runs a verb that tells its percentages.
    fn follow(&self, verb: &str, command: Run, note: &mut dyn FnMut(Percent) -> bool) -> Result<(), Fault> {
        let (_, result) = command.drain(|pipe| {
            let percents = BufReader::new(pipe).lines().map_while(Result::ok);
            let percents = percents.filter_map(|line| Percent::try_from(line.parse::<u8>().ok()?).ok());
            // Once the pipe is closed, the helper can't say how far it is, and ends.
            percents.take_while(|&percent| note(percent)).for_each(drop);
        });
        result.map(|_| ()).map_err(|error| self.explain(verb, &error))
    }

    /// Enlarges the root disk of a machine that does not run, unless it has that size. `note`
    /// receives the progress, and returns whether to continue. Idempotent.
    pub fn grow_volume(
        &self,
        id: VmId,
        machine: &MachineName,
        disk: GiB,
        mut note: impl FnMut(Percent) -> bool,
    ) -> Result<(), Fault> {
        let args = [&id.to_string(), machine.as_str(), &disk.get().to_string()];
        self.follow("grow-volume", self.command("grow-volume", &args, limits::GROW), &mut note)
    }

    /// Unpacks the plain tar stream that `feed` writes. Returns the result of `feed` and that of
    /// the helper.
    pub fn unpack<T>(
        &self,
        id: VmId,
        machine: &MachineName,
        image: &ImageTag,
        feed: impl FnOnce(&mut ChildStdin) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Result<(), Fault>) {
        self.feed("unpack", id, machine, image, feed)
    }

    /// Writes the pieces of a disk that `feed` writes. Returns the result of `feed` and that of the
    /// helper.
    pub fn write_disk<T>(
        &self,
        id: VmId,
        machine: &MachineName,
        image: &ImageTag,
        feed: impl FnOnce(&mut ChildStdin) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Result<(), Fault>) {
        self.feed("write-disk", id, machine, image, feed)
    }

    fn feed<T>(
        &self,
        verb: &str,
        id: VmId,
        machine: &MachineName,
        image: &ImageTag,
        feed: impl FnOnce(&mut ChildStdin) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Result<(), Fault>) {
        let args = [&id.to_string(), machine.as_str(), image.as_str()];
        let (fed, result) = self.command(verb, &args, limits::UNPACK).feed(feed);
        (fed, result.map(|_| ()).map_err(|error| self.explain(verb, &error)))
    }

    /// Makes the disk that tells cloud-init about the machine that `order` made or is to make.
    pub fn make_seed(
        &self,
        order: &DeployOrder,
        machine: &MachineName,
        ip: Ipv4Addr,
        keys: &PublicKeys,
    ) -> Result<(), Fault> {
        let args = [
            &order.id.to_string(),
            machine.as_str(),
            order.spec.image.as_str(),
            &ip.to_string(),
            &order.user.encoded(),
        ];
        let run = self.command("make-seed", &args, limits::CONFIGURE).input(keys.text());
        run.run().map(|_| ()).map_err(|error| self.explain("make-seed", &error))
    }

    /// Packs a stopped machine's file system. `take` receives the announced size and a plain tar
    /// stream. Returns the result of `take`, if the stream began, and that of the helper.
    pub fn pack<T>(
        &self,
        id: VmId,
        machine: &MachineName,
        take: impl FnOnce(PackHeader, &mut ChildStdout) -> T,
    ) -> (Option<T>, Result<(), Fault>) {
        self.drain("pack", id, machine, take)
    }

    /// Does the same with a stopped machine's whole disk.
    pub fn pack_disk<T>(
        &self,
        id: VmId,
        machine: &MachineName,
        take: impl FnOnce(PackHeader, &mut ChildStdout) -> T,
    ) -> (Option<T>, Result<(), Fault>) {
        self.drain("pack-disk", id, machine, take)
    }

    fn drain<T>(
        &self,
        verb: &str,
        id: VmId,
        machine: &MachineName,
        take: impl FnOnce(PackHeader, &mut ChildStdout) -> T,
    ) -> (Option<T>, Result<(), Fault>) {
        let args = [&id.to_string(), machine.as_str()];
        let (taken, result) = self
            .command(verb, &args, limits::PACK)
            .drain(|pipe| PackHeader::read(pipe).map(|header| take(header, pipe)));
        let result = result.map(|_| ()).map_err(|error| self.explain(verb, &error));
        match taken {
            Some(Ok(taken)) => (Some(taken), result),
            Some(Err(error)) if result.is_ok() => {
                log::event(Level::Error, "helper.garbled", &[("why", &error)]);
                (None, Err(Fault::Internal { request: self.request.to_string() }))
            }
            _ => (None, result),
        }
    }

    /// Renders, checks and installs the configuration of the machine that `order` is to make.
    pub fn configure(&self, order: &DeployOrder, machine: &MachineName, ip: Ipv4Addr) -> Result<(), Fault> {
        self.configure_with(&[], order, machine, ip)
    }

    /// Does the same for a machine that does not run, and is not to start with the host. Idempotent.
    pub fn configure_stopped(
        &self,
        order: &DeployOrder,
        machine: &MachineName,
        ip: Ipv4Addr,
    ) -> Result<(), Fault> {
        self.configure_with(&["--stopped"], order, machine, ip)
    }

    /// Does the same for a machine that does not run, if the host has another toolstack by now than
    /// the one that has its configuration.
    pub fn follow_toolstack(
        &self,
        order: &DeployOrder,
        machine: &MachineName,
        ip: Ipv4Addr,
    ) -> Result<(), Fault> {
        self.configure_with(&["--if-moved"], order, machine, ip)
    }

    fn configure_with(
        &self,
        options: &[&str],
        order: &DeployOrder,
        machine: &MachineName,
        ip: Ipv4Addr,
    ) -> Result<(), Fault> {
        let args = [
            &order.id.to_string(),
            machine.as_str(),
            order.spec.image.as_str(),
            &order.spec.memory.get().to_string(),
            &order.spec.cpus.get().to_string(),
            &ip.to_string(),
            &order.user.encoded(),
        ];
        self.call("configure", &[options, &args].concat(), limits::CONFIGURE).map(|_| ())
    }

    /// Takes a snapshot of the machine's root disk, unless less than `reserved`, which is promised to
    /// others, would be left. Returns what the storage has then, as the next three do.
    pub fn take_snapshot(
        &self,
        id: VmId,
        machine: &MachineName,
        name: &SnapshotName,
        reserved: Amount,
    ) -> Result<Storage, Fault> {
        let args = [&id.to_string(), machine.as_str(), name.as_str(), &reserved.mib().to_string()];
        self.read(&self.call("take-snapshot", &args, limits::SNAPSHOT)?)
    }

    /// Gives the machine, which must not run, the root disk that it had when the snapshot was taken.
    pub fn roll_back(&self, id: VmId, machine: &MachineName, name: &SnapshotName) -> Result<Storage, Fault> {
        let args = [&id.to_string(), machine.as_str(), name.as_str()];
        self.read(&self.call("roll-back", &args, limits::SNAPSHOT)?)
    }

    /// Deletes a snapshot of the machine's root disk. Idempotent.
    pub fn delete_snapshot(
        &self,
        id: VmId,
        machine: &MachineName,
        name: &SnapshotName,
    ) -> Result<Storage, Fault> {
        let args = [&id.to_string(), machine.as_str(), name.as_str()];
        self.read(&self.call("delete-snapshot", &args, limits::SNAPSHOT)?)
    }

    /// Gives the machine, which must not run, the root disk that its image makes, unless less than
    /// `reserved` would be left meanwhile.
    pub fn as_new(
        &self,
        id: VmId,
        machine: &MachineName,
        image: &ImageTag,
        reserved: Amount,
    ) -> Result<Storage, Fault> {
        let args = [&id.to_string(), machine.as_str(), image.as_str(), &reserved.mib().to_string()];
        self.read(&self.call("as-new", &args, limits::AS_NEW)?)
    }

    /// Starts the machine, unless its definition is elsewhere.
    pub fn start(&self, id: VmId, machine: &MachineName, memory: MiB) -> Result<Stand, Fault> {
        let args = [&id.to_string(), machine.as_str(), &memory.get().to_string()];
        self.read(&self.call("start", &args, limits::START)?)
    }

    /// Watches the machine until it is found to be running.
    pub fn verify(&self, id: VmId, machine: &MachineName) -> Result<(), Fault> {
        self.call("verify", &[&id.to_string(), machine.as_str()], limits::VERIFY).map(|_| ())
    }

    /// Shuts the machine down, and keeps it from being started at boot. Idempotent.
    pub fn stop(&self, id: VmId, machine: &MachineName) -> Result<Stand, Fault> {
        self.read(&self.call("stop", &[&id.to_string(), machine.as_str()], limits::STOP)?)
    }

    /// Removes everything that belongs to the machine: processes, domain, configuration, volumes, and,
    /// with `forget_console`, its console log. Idempotent. Returns the host's state then.
    pub fn undo(&self, id: VmId, machine: &MachineName, forget_console: bool) -> Result<HostState, Fault> {
        let id = id.to_string();
        let args = [&id, machine.as_str(), "--forget-console"];
        let args = if forget_console { &args[..] } else { &args[..2] };
        self.read(&self.call("undo", args, limits::UNDO)?)
    }

    /// Removes something that vGrid did not create, if the host's configuration allows it.
    /// Idempotent.
    pub fn discard(&self, stranger: &Foreign) -> Result<(), Fault> {
        let result = match stranger {
            Foreign::Volume { name } => self.call("discard", &["volume", name.as_str()], limits::DISCARD),
            Foreign::Domain { name, number } => {
                self.call("discard", &["domain", name.as_str(), &number.to_string()], limits::DISCARD)
            }
        };
        result.map(|_| ())
    }

    /// Returns the end of a machine's console log.
    pub fn console(&self, machine: &MachineName, bytes: u32) -> Result<ConsoleTail, Fault> {
        self.read(&self.call("console", &[machine.as_str(), &bytes.to_string()], limits::INFO)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(stdout: &str, stderr: &str) -> Fault {
        ended(1 << 8, stdout, stderr)
    }

    fn ended(status: i32, stdout: &str, stderr: &str) -> Fault {
        let error = ExecError::Failed {
            argv: String::new(),
            status: std::process::ExitStatus::from_raw(status),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        Helper::new(&"abc".parse().unwrap()).explain("start", &error)
    }

    #[test]
    fn faults_of_the_helper_are_passed_on_and_messages_of_sudo_recognized() {
        assert_eq!(explained("", "sudo: a password is required"), Fault::PrivilegeRefused);
        assert_eq!(
            explained("{\"code\":\"volume-exists\",\"volume\":\"x\"}\n", "vgrid-helper: …"),
            Fault::VolumeExists { volume: "x".to_owned() }
        );
        assert_eq!(
            explained("", "{\"code\":\"no-room-for-image\"}\nvgrid-helper: …"),
            Fault::NoRoomForImage,
            "where standard output is a stream"
        );
        assert_eq!(explained("", "oops"), Fault::Internal { request: "abc".to_owned() });
        assert_eq!(ended(9, "", ""), Fault::Interrupted { stage: None });
        assert_eq!(ended(137 << 8, "", "Killed"), Fault::Interrupted { stage: None });
    }
}
