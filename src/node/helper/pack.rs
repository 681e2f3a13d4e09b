//! `pack`: the file system of a stopped machine, as a plain tar stream on standard output, after a line of JSON that
//! says how much is in use ([`Beginning`]).
//!
//! The machine's owner is root in it, so whoever reads it must expect anything of it, the kernel included. It is
//! mounted read-only, `nodev,nosuid,noexec`, as one of the few types that are read every day, in a mount namespace
//! that ends with this program; and tar reads it as nobody, with no right but to read every file. A file system that
//! yields more than its disk can hold (a file under many names that says that it has one) is not read any further.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::path::Path;

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::guard::MachineLock;
use super::unpack::{as_nobody_with, head, in_a_namespace, program};
use super::{Failure, Host, limits};
use crate::model::fault::{self, Fault};
use crate::model::size::Amount;
use crate::node::filesystem::{self, Kind};
use crate::node::image;
use crate::node::lvm;
use crate::system::exec::{ExecError, Run};
use crate::system::log::{self, Level};

/// What the stream begins with: one line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// About how many bytes will follow, if the file system is in order.
    pub expected: u64,
    /// More than so many bytes never follow.
    pub most: u64,
}

impl Beginning {
    /// The longest such line.
    const MAX: usize = 100;

    /// What tar writes of a file beside its content: a header of its own and an extended one (pax(1)), each with what
    /// fills its last block; on an average, and for long names and attributes.
    const USUAL_HEADERS: u64 = 2 << 10;
    const LARGE_HEADERS: u64 = 4 << 10;

    /// What a file system says of itself, as far as its disk can hold that: how many bytes and how many files it has
    /// in use, and the size of the disk in bytes. The first two are its owner's word.
    fn of(used: u64, files: u64, disk: u64) -> Self {
        let headers = |each: u64| files.saturating_mul(each).min(disk);
        let most = disk.saturating_add(headers(Self::LARGE_HEADERS));
        Self { expected: used.saturating_add(headers(Self::USUAL_HEADERS)).min(most), most }
    }

    /// Reads it, and not a byte more.
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

/// How a file system is mounted to be read.
const OPTIONS: &str = "ro,nodev,nosuid,noexec,noatime";

/// Runs a program as somebody who may read everything, and nothing else.
pub fn as_nobody(what: &str) -> Run {
    as_nobody_with("-all,+dac_read_search", what)
}

/// The file whose content tells a machine from all others. systemd makes a new one where it finds an empty one; where
/// it finds none it can't, because the root file system is still read-only at that time (machine-id(5)).
const MACHINE_ID: &str = "etc/machine-id";

/// What an image has not: what would make two machines one, or let those who could enter this one enter those that
/// others make of it; and what does not outlive a boot. Sockets tar leaves out by itself. What is in `dev` is left
/// there: it is nothing but device nodes, without which older systems don't start.
const LEFT_OUT: [&str; 16] = [
    "./etc/machine-id",
    "./var/lib/dbus/machine-id",
    "./etc/ssh/ssh_host_*",
    "./etc/dropbear/dropbear_*_host_key",
    "./var/lib/systemd/random-seed",
    "./var/lib/systemd/credential.secret",
    "./var/lib/urandom/random-seed",
    "./var/lib/random-seed",
    // copyuserkey makes them anew for each machine's owner.
    "./root/.ssh/authorized_keys",
    "./root/.ssh/authorized_keys2",
    // Every file system gets its own.
    "./lost+found",
    "./proc/*",
    "./sys/*",
    "./run/*",
    "./tmp/*",
    "./var/tmp/*",
];

/// The arguments of tar. What it stores of a file is what `unpack` restores.
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
        // Of sockets.
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
    /// Packs the machine's root volume onto standard output. The machine must have been stopped.
    pub fn pack(&self, lock: &MachineLock) -> Result<(), Failure> {
        let domains = self.hypervisor()?.domains()?;
        if domains.iter().any(|domain| domain.is(lock.id, &lock.machine, true)) {
            return Err(Failure::internal(format!("{} runs, so its disk can't be packed", lock.machine)));
        }
        let volume = self.volume_at_rest(lock, &lvm::root_volume(&lock.machine))?;
        let device = self.lvm().device(&volume.name);
        let target = lock.mount_point();
        in_a_namespace(&target, || {
            mount_read_only(&device, &target)?;
            let streamed = stream(&target, volume.size);
            let unmounted = Run::new(program("umount")).arg("-n").arg(&target).limit(limits::UNMOUNT).run();
            streamed?;
            unmounted.map(|_| ()).map_err(Failure::internal)
        })
    }
}

/// Mounts a file system of one of the types that are read every day. A journal that was left unfinished is carried out.
fn mount_read_only(device: &Path, target: &Path) -> Result<(), Failure> {
    let failed = |detail: &str| Failure::from(Fault::SaveFailed { detail: fault::detail(detail) });
    let read = head(device).map_err(|error| Failure::internal(format!("{}: {error}", device.display())))?;
    let kind = match filesystem::kind(&read) {
        Some(kind @ (Kind::Ext | Kind::Xfs)) => kind,
        Some(Kind::Btrfs) | None => return Err(failed("it is not ext2, ext3, ext4 or xfs, or damaged")),
    };
    Run::new(program("mount"))
        .args(["-n", "-t", kind.mount_type(), "-o", &format!("{OPTIONS}{}", kind.on_errors())])
        .arg(device)
        .arg(target)
        .run()
        .map(|_| ())
        .map_err(|error| failed(&format!("its file system is damaged: {}", error.stderr())))
}

/// Whether the machine has an id of its own, in a folder that is one.
fn has_machine_id(target: &Path) -> bool {
    let facts = |name: &str| std::fs::symlink_metadata(target.join(name));
    facts("etc").is_ok_and(|facts| facts.is_dir()) && facts(MACHINE_ID).is_ok_and(|facts| facts.is_file())
}

fn stream(target: &Path, disk: Amount) -> Result<(), Failure> {
    let facts = statvfs(target).map_err(Failure::internal)?;
    let used = facts.blocks().saturating_sub(facts.blocks_free()).saturating_mul(facts.fragment_size());
    let files = facts.files().saturating_sub(facts.files_free());
    let beginning = Beginning::of(used, files, disk.bytes());
    let mut out = io::stdout().lock();
    let mut begin = || -> io::Result<u64> {
        writeln!(out, "{}", serde_json::to_string(&beginning)?)?;
        let member = has_machine_id(target).then(|| image::empty_member(&format!("./{MACHINE_ID}")));
        let member = member.as_ref().map_or(&[][..], |member| member);
        out.write_all(member)?;
        Ok(beginning.most.saturating_sub(member.len() as u64))
    };
    let no_reader = |error: io::Error| Failure::internal(format!("standard output: {error}"));
    let left = begin().map_err(no_reader)?;
    let (copied, packed) = as_nobody("tar")
        .args(tar_arguments(target))
        .limit(limits::TAR)
        .drain(|pipe| copy_at_most(left, pipe, &mut out));
    match copied {
        Some(Ok(true)) | None => packed.map(|_| ()).or_else(|error| tar_failed(&error)),
        Some(Ok(false)) => {
            Err(Fault::DiskInconsistent { most: Amount::from_mib(beginning.most >> 20) }.into())
        }
        Some(Err(error)) => Err(no_reader(error)),
    }
}

/// Copies a stream that has at most so many bytes. Whether it had no more.
fn copy_at_most(most: u64, reader: &mut impl Read, writer: &mut impl io::Write) -> io::Result<bool> {
    io::copy(&mut reader.by_ref().take(most), writer)?;
    writer.flush()?;
    Ok(reader.take(1).read_to_end(&mut Vec::new())? == 0)
}

fn tar_failed(error: &ExecError) -> Result<(), Failure> {
    let detail = |text: &str| Failure::from(Fault::SaveFailed { detail: fault::detail(text) });
    match error {
        // Both setpriv and tar end with 1: the one when it can't do what it should, the other when it has warned.
        ExecError::Failed { stderr, .. }
            if error.code() == Some(1) && !stderr.lines().any(|line| line.starts_with("setpriv: ")) =>
        {
            log::event(Level::Warning, "pack.warned", &[("said", &fault::detail(stderr))]);
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

    /// What tar lists of a folder that has been packed by these arguments.
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
    fn an_image_has_all_but_what_it_must_not_have() {
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
    fn nobody_reads_everything_and_can_do_no_more() {
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
    fn the_beginning_is_read_and_nothing_after_it() {
        let mut stream = &b"{\"expected\":12,\"most\":20}\narchive"[..];
        assert_eq!(Beginning::read(&mut stream).unwrap(), Beginning { expected: 12, most: 20 });
        assert_eq!(stream, b"archive");
        for text in [&b""[..], b"{\"expected\":12,\"most\":20}", b"{}\n", &[b'x'; 1000]] {
            assert!(Beginning::read(&mut &*text).is_err(), "{text:?}");
        }
        let longest = Beginning { expected: u64::MAX, most: u64::MAX };
        let line = serde_json::to_string(&longest).unwrap() + "\n";
        assert_eq!(Beginning::read(&mut line.as_bytes()).unwrap(), longest);
    }

    #[test]
    fn no_more_than_a_disk_can_hold_is_expected_of_it() {
        let mib = |n: u64| n << 20;
        let plain = Beginning::of(mib(300), 10_000, mib(1024));
        assert_eq!((plain.expected >> 20, plain.most >> 20), (319, 1063));
        // Whatever its owner has written into it.
        for (used, files) in [(u64::MAX, u64::MAX), (0, u64::MAX), (u64::MAX, 0)] {
            let lie = Beginning::of(used, files, mib(1024));
            assert!(lie.expected <= lie.most && lie.most <= mib(2048), "{lie:?}");
        }
    }

    #[test]
    fn a_stream_is_cut_off_where_the_disk_ends() {
        for (most, whole) in [(0, false), (9, false), (10, true), (11, true)] {
            let mut out = Vec::new();
            assert_eq!(copy_at_most(most, &mut &b"0123456789"[..], &mut out).unwrap(), whole, "{most}");
            assert_eq!(out.len() as u64, most.min(10));
        }
    }

    #[test]
    fn a_warning_of_tar_s_is_no_failure() {
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
