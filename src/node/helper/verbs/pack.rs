//! `pack`: writes the file system of a stopped machine to standard output: a line of JSON that
//! announces the size ([`PackHeader`]), then a plain tar stream.
//!
//! The machine's owner has root in it, so the file system is untrusted input, even to the kernel.
//! It is mounted read-only and `nodev,nosuid,noexec`, only if it is of one of the few types in
//! everyday use, in a mount namespace that ends with this program. tar reads it as nobody, with the
//! single capability to read every file. Reading stops if a file system yields more than its disk
//! can hold. (An example is a file with many names but a link count of one.)

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::model::fault::{self, Fault};
use crate::model::size::Amount;
use crate::node::Machine;
use crate::node::filesystem::{self, Kind};
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::limits;
use crate::node::helper::namespace::in_a_namespace;
use crate::node::helper::nobody::{as_nobody, program};
use crate::node::helper::volumes::head;
use crate::node::image;
use crate::node::storage::Disk;
use crate::system::exec::{ExecError, Run};
use crate::system::log::{self, Level};

/// The line of JSON at the beginning of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackHeader {
    /// The approximate number of bytes that follow, if the file system is intact.
    pub expected: u64,
    /// The maximum number of bytes that follow.
    pub most: u64,
}

impl PackHeader {
    /// The maximum length of the line, in bytes.
    const MAX: usize = 100;

    /// The average number of bytes that tar writes per file besides its content: a header and an
    /// extended header (pax(1)), including padding.
    const USUAL_HEADERS: u64 = 2 << 10;
    /// The same for files with long names and attributes.
    const LARGE_HEADERS: u64 = 4 << 10;

    /// Estimates the size of a file system that claims `used` bytes and `files` files in use. These
    /// numbers are under the owner's control, so the result is capped by `disk`, the size of the
    /// disk in bytes.
    fn of(used: u64, files: u64, disk: u64) -> Self {
        let headers = |each: u64| files.saturating_mul(each).min(disk);
        let most = disk.saturating_add(headers(Self::LARGE_HEADERS));
        Self { expected: used.saturating_add(headers(Self::USUAL_HEADERS)).min(most), most }
    }

    /// Looks at a mounted file system on a disk of that size.
    pub(super) fn of_mounted(target: &Path, disk: Amount) -> Result<Self, Failure> {
        let facts = statvfs(target).map_err(Failure::internal)?;
        let used = facts.blocks().saturating_sub(facts.blocks_free()).saturating_mul(facts.fragment_size());
        let files = facts.files().saturating_sub(facts.files_free());
        Ok(Self::of(used, files, disk.bytes()))
    }

    /// Writes the line.
    pub(super) fn write(self, out: &mut impl io::Write) -> io::Result<()> {
        writeln!(out, "{}", serde_json::to_string(&self)?)
    }

    /// Reads the line, and nothing beyond it.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < Self::MAX {
            stream.read_exact(&mut byte)?;
            match byte {
                [b'\n'] => return Ok(serde_json::from_slice(&line)?),
                byte => line.extend(byte),
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// The mount options for reading a file system.
const OPTIONS: &str = "ro,nodev,nosuid,noexec,noatime";

/// The file that identifies a machine. systemd fills in an empty file, but can't create a missing
/// one, because the root file system is still read-only at that time (machine-id(5)).
const MACHINE_ID: &str = "etc/machine-id";

/// What an image does not contain: identifiers that must be unique to a machine, credentials that
/// would let those with access to this machine into other machines made from the image, and
/// everything that does not survive a reboot. tar itself skips sockets. `dev` is kept: it contains
/// only device nodes, and older systems don't boot without them.
const LEFT_OUT: [&str; 16] = [
    "./etc/machine-id",
    "./var/lib/dbus/machine-id",
    "./etc/ssh/ssh_host_*",
    "./etc/dropbear/dropbear_*_host_key",
    "./var/lib/systemd/random-seed",
    "./var/lib/systemd/credential.secret",
    "./var/lib/urandom/random-seed",
    "./var/lib/random-seed",
    // Written by copyuserkey for the owner of each machine.
    "./root/.ssh/authorized_keys",
    "./root/.ssh/authorized_keys2",
    // Created with every file system.
    "./lost+found",
    "./proc/*",
    "./sys/*",
    "./run/*",
    "./tmp/*",
    "./var/tmp/*",
];

/// Returns the arguments of tar. It stores the file attributes that `unpack` restores.
fn tar_arguments(target: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "--create",
        "--file=-",
        "--format=posix",
        "--pax-option=delete=atime,delete=ctime",
        "--one-file-system",
        "--numeric-owner",
        "--sparse",
        "--xattrs",
        "--xattrs-include=*",
        // These are sockets.
        "--warning=no-file-ignored",
        "--anchored",
    ]
    .map(OsString::from)
    .to_vec();
    arguments.extend(LEFT_OUT.iter().map(|pattern| format!("--exclude={pattern}").into()));
    arguments.extend(["--directory".into(), target.into(), ".".into()]);
    arguments
}

impl Host {
    /// Packs the machine's root volume to standard output. The machine must be stopped.
    pub fn pack(&self, lock: &MachineLock) -> Result<(), Failure> {
        let machine = &lock.machine;
        self.must_not_run(machine)?;
        let volume = self.volume_at_rest(machine, Disk::Root)?;
        let device = self.storage().attach(machine, Disk::Root)?;
        let target = lock.mount_point();
        in_a_namespace(&target, || {
            mount_read_only(device.path(), &target).map_err(|failure| self.unless_full(failure))?;
            let streamed = stream(&target, volume.size);
            let unmounted = Run::new(program("umount")).arg("-n").arg(&target).limit(limits::UNMOUNT).run();
            streamed?;
            unmounted.map(|_| ()).map_err(Failure::internal)
        })
    }
}

impl Host {
    /// Checks that the machine has no domain.
    pub(super) fn must_not_run(&self, machine: &Machine) -> Result<(), Failure> {
        for hypervisor in self.hypervisors() {
            if hypervisor.domains()?.iter().any(|domain| domain.is(machine, true)) {
                return Err(Failure::internal(format!("{} runs, so its disk can't be packed", machine.name)));
            }
        }
        Ok(())
    }
}

/// Mounts a file system of one of the types in everyday use. The kernel replays an unfinished
/// journal.
pub(super) fn mount_read_only(device: &Path, target: &Path) -> Result<(), Failure> {
    let failed = |detail: &str| Failure::from(Fault::SaveFailed { detail: fault::detail(detail) });
    let read = head(device).map_err(|error| Failure::internal(format!("{}: {error}", device.display())))?;
    let kind = match filesystem::kind(&read) {
        Some(kind @ (Kind::Ext | Kind::Xfs)) => kind,
        Some(Kind::Btrfs) | None => return Err(failed("it is not ext2, ext3, ext4 or xfs, or damaged")),
    };
    Run::new(program("mount"))
        .args(["-n", "-t", kind.mount_type(), "-o", &format!("{OPTIONS}{}", kind.when_copied())])
        .arg(device)
        .arg(target)
        .run()
        .map(|_| ())
        .map_err(|error| failed(&format!("its file system is damaged: {}", error.said())))
}

/// Returns whether the machine has an id of its own. Symlinks are not followed.
fn has_machine_id(target: &Path) -> bool {
    let facts = |name: &str| std::fs::symlink_metadata(target.join(name));
    facts("etc").is_ok_and(|facts| facts.is_dir()) && facts(MACHINE_ID).is_ok_and(|facts| facts.is_file())
}

fn stream(target: &Path, disk: Amount) -> Result<(), Failure> {
    let header = PackHeader::of_mounted(target, disk)?;
    let mut out = io::stdout().lock();
    let no_reader = |error: io::Error| Failure::internal(format!("standard output: {error}"));
    header.write(&mut out).map_err(no_reader)?;
    read_tree(target, header, &mut out).map_err(no_reader)?
}

/// Has tar read a mounted file system, and writes what an image contains to `out`.
///
/// # Errors
/// That of `out`; within, why the file system can't be read.
pub(super) fn read_tree(
    target: &Path,
    header: PackHeader,
    out: &mut impl io::Write,
) -> io::Result<Result<(), Failure>> {
    let member = has_machine_id(target).then(|| image::empty_member(&format!("./{MACHINE_ID}")));
    let member = member.as_ref().map_or(&[][..], |member| member);
    out.write_all(member)?;
    let left = header.most.saturating_sub(member.len() as u64);
    let (copied, packed) = as_nobody("tar")
        .args(tar_arguments(target))
        .limit(limits::TAR)
        .drain(|pipe| copy_at_most(left, pipe, out));
    match copied {
        Some(Ok(true)) | None => Ok(packed.map(|_| ()).or_else(|error| tar_failed(&error))),
        Some(Ok(false)) => {
            Ok(Err(Fault::DiskInconsistent { most: Amount::from_mib(header.most >> 20) }.into()))
        }
        Some(Err(error)) => Err(error),
    }
}

/// Copies at most `most` bytes of a stream. Returns whether that was all of it.
fn copy_at_most(most: u64, reader: &mut impl Read, writer: &mut impl io::Write) -> io::Result<bool> {
    io::copy(&mut reader.by_ref().take(most), writer)?;
    writer.flush()?;
    Ok(reader.take(1).read_to_end(&mut Vec::new())? == 0)
}

fn tar_failed(error: &ExecError) -> Result<(), Failure> {
    let detail = |text: &str| Failure::from(Fault::SaveFailed { detail: fault::detail(text) });
    match error {
        // Both exit with 1: setpriv on failure, tar after a mere warning.
        ExecError::Failed { stderr, .. }
            if error.code() == Some(1) && !stderr.lines().any(|line| line.starts_with("setpriv: ")) =>
        {
            log::event(Level::Warning, "pack.warned", &[("why", &fault::detail(stderr))]);
            Ok(())
        }
        ExecError::Failed { stderr, .. } => Err(detail(stderr.lines().next().unwrap_or("tar was killed"))),
        ExecError::TimedOut { limit, .. } => {
            Err(Fault::TimedOut { what: "Packing the disk".to_owned(), seconds: limit.as_secs() }.into())
        }
        ExecError::NotStarted { source, .. } | ExecError::Pipe { source, .. } => {
            Err(detail(&format!("setpriv: {source}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::process::ExitStatusExt as _;

    /// Packs a directory with `run` and returns the names that tar lists.
    fn listed(folder: &Path, run: Run) -> Vec<String> {
        let packed = run.args(tar_arguments(folder)).run().unwrap().stdout;
        let text = Run::new(program("tar")).args(["--list"]).input(packed).run().unwrap().text();
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    fn write(folder: &Path, names: &[&str]) {
        for name in names {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        }
    }

    #[test]
    fn an_image_contains_everything_not_excluded() {
        let dir = tempfile::tempdir().unwrap();
        let stays = [
            "dev/null-by-another-name",
            "etc/ssh/sshd_config",
            "home/alice/.ssh/authorized_keys",
            "home/alice/etc/machine-id",
            "home/alice/lost+found",
            "home/alice/tmp/x",
            "kept",
            "root/.ssh/config",
            "var/lib/dbus/other",
        ];
        write(dir.path(), &stays);
        write(
            dir.path(),
            &[
                "etc/machine-id",
                "etc/ssh/ssh_host_ed25519_key",
                "etc/ssh/ssh_host_ed25519_key.pub",
                "etc/dropbear/dropbear_rsa_host_key",
                "var/lib/dbus/machine-id",
                "var/lib/systemd/random-seed",
                "root/.ssh/authorized_keys",
                "root/.ssh/authorized_keys2",
                "lost+found/x",
                "proc/1/x",
                "sys/x",
                "run/.hidden",
                "tmp/.X11-unix/x",
                "var/tmp/x",
            ],
        );
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("home/socket")).unwrap();
        let names = listed(dir.path(), Run::new(program("tar")));
        let files: Vec<&str> = names
            .iter()
            .filter(|name| !name.ends_with('/'))
            .map(|name| name.trim_start_matches("./"))
            .collect();
        assert_eq!(files, stays);
        for folder in ["./proc/", "./sys/", "./run/", "./tmp/", "./var/tmp/", "./etc/ssh/"] {
            assert!(names.iter().any(|name| name == folder), "{folder} is not in {names:?}");
        }
        assert!(has_machine_id(dir.path()));
        fs::remove_file(dir.path().join(MACHINE_ID)).unwrap();
        assert!(!has_machine_id(dir.path()));
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(MACHINE_ID)).unwrap();
        assert!(!has_machine_id(dir.path()));
    }

    #[test]
    fn programs_run_as_nobody_can_only_read() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root can give its rights away: not tried here");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &["closed/file"]);
        for name in ["closed/file", "closed"] {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o000)).unwrap();
        }
        assert_eq!(listed(dir.path(), as_nobody("tar")), ["./", "./closed/", "./closed/file"]);
        let status = as_nobody("cat").arg("/proc/self/status").run().unwrap().text();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
        assert_eq!((field("Groups:"), field("NoNewPrivs:")), (String::new(), "1".to_owned()));
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            // CAP_DAC_READ_SEARCH is number 2.
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(1 << 2), "{set}");
        }
        assert!(as_nobody("touch").arg(dir.path().join("closed/other")).run().is_err());
    }

    #[test]
    fn only_the_first_line_is_read() {
        let mut stream = &b"{\"expected\":12,\"most\":20}\narchive"[..];
        assert_eq!(PackHeader::read(&mut stream).unwrap(), PackHeader { expected: 12, most: 20 });
        assert_eq!(stream, b"archive");
        for text in [&b""[..], b"{\"expected\":12,\"most\":20}", b"{}\n", &[b'x'; 1000]] {
            assert!(PackHeader::read(&mut &*text).is_err(), "{text:?}");
        }
        let longest = PackHeader { expected: u64::MAX, most: u64::MAX };
        let line = serde_json::to_string(&longest).unwrap() + "\n";
        assert_eq!(PackHeader::read(&mut line.as_bytes()).unwrap(), longest);
    }

    #[test]
    fn the_expected_size_is_capped_by_the_disk() {
        let mib = |n: u64| n << 20;
        let plain = PackHeader::of(mib(300), 10_000, mib(1024));
        assert_eq!((plain.expected >> 20, plain.most >> 20), (319, 1063));
        // Whatever its owner claims.
        for (used, files) in [(u64::MAX, u64::MAX), (0, u64::MAX), (u64::MAX, 0)] {
            let lie = PackHeader::of(used, files, mib(1024));
            assert!(lie.expected <= lie.most && lie.most <= mib(2048), "{lie:?}");
        }
    }

    #[test]
    fn a_stream_is_limited_to_the_size_of_the_disk() {
        for (most, whole) in [(0, false), (9, false), (10, true), (11, true)] {
            let mut out = Vec::new();
            assert_eq!(copy_at_most(most, &mut &b"0123456789"[..], &mut out).unwrap(), whole, "{most}");
            assert_eq!(out.len() as u64, most.min(10));
        }
    }

    #[test]
    fn a_warning_from_tar_is_no_failure() {
        let ended = |status: i32, stderr: &str| {
            tar_failed(&ExecError::Failed {
                argv: String::new(),
                status: std::process::ExitStatus::from_raw(status),
                stdout: Vec::new(),
                stderr: stderr.to_owned(),
            })
            .map_err(|failure| failure.fault)
        };
        let failed = |detail: &str| Err(Some(Fault::SaveFailed { detail: detail.to_owned() }));
        assert_eq!(ended(1 << 8, "/usr/bin/tar: ./x: file changed as we read it"), Ok(()));
        assert_eq!(ended(1 << 8, "setpriv: setresuid failed"), failed("setpriv: setresuid failed"));
        let broken = "/usr/bin/tar: ./x: Read error at byte 0";
        assert_eq!(ended(2 << 8, &format!("{broken}\nExiting")), failed(broken));
        assert_eq!(ended(13, ""), failed("tar was killed"));
    }
}
