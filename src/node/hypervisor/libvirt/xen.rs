//! Machines of libvirt's driver for Xen.
//!
//! Facts, observed with libvirt 9.0 and Xen 4.17:
//!
//! - libvirt does not know of the domains that `xl` has started, but `xl` lists, shuts down and
//!   destroys libvirt's, and libvirt notices. libvirt's own `domstats`, `nodememstats` and `send-key`
//!   are missing for Xen.
//! - A domain that has shut down is "shut off" for libvirt at once, and listed by `xl` for up to
//!   half a minute, while libvirt has its disks taken from it.
//! - Whatever prevents a start, virsh says only `libxenlight failed to create new domain`. The reason
//!   is in a log, which all domains share.
//! - Without a kernel and a boot loader in the definition, libvirt has pygrub read the guest's disk as
//!   root. A boot loader that it starts itself would have to be allowed by AppArmor. So each machine
//!   has a GRUB of its own as its kernel, which this program makes at each start. It carries the
//!   kernel's command line, because GRUB before 2.14 does not look at what Xen gives it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::virsh::Virsh;
use super::{Names, definition};
use crate::model::fault::detail;
use crate::model::names::VmId;
use crate::node::files;
use crate::node::hypervisor::xen::{Xen, output};
use crate::node::hypervisor::{Hypervisor as _, HypervisorError, Listed};
use crate::system::exec::Run;

/// What libvirt's driver for Xen keeps where, and what it understands. It refuses to be asked for
/// snapshots and the like.
pub(super) const NAMES: Names = Names {
    uri: "xen:///system",
    native: "xen-xl",
    undefine: &["--managed-save"],
    started: "xen.xml",
    stopped: "xen.stopped.xml",
    new: "xen.new.xml",
    boot_loader: "pvgrub.img",
    new_boot_loader: "pvgrub.new.img",
};

/// The program that makes boot loaders from the distribution's GRUB.
pub const MAKE_BOOT_LOADER: &str = "/usr/lib/vgrid/vgrid-pvgrub";

/// The time limit for making one, which takes a second on an emulated host.
const MAKE: Duration = Duration::from_secs(60);

/// Where libvirt writes what libxl says.
const LOG: &str = "/var/log/libvirt/libxl/libxl-driver.log";

/// How much of that is read after a failure, in bytes.
const NEWS: u64 = 64 << 10;

/// What virsh says when the reason is in the log.
const UNSAID: &str = "libxenlight failed to create new domain";

/// How long libvirt may take to remove a domain that it no longer takes for running.
const LETS_GO: Duration = Duration::from_secs(45);

/// The polling interval meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// Makes the boot loader of a machine with this definition, and returns it.
pub(super) fn boot_loader(maker: &Path, id: VmId, definition: &str) -> Result<Vec<u8>, HypervisorError> {
    let line = definition::command_line(definition)?;
    sweep(id)?;
    let folder = workshop(id);
    std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(files::at(&folder))?;
    // As xl calls it; only that nobody has to be told where the result is.
    let run = Run::new(maker)
        .arg(format!("--args={line}"))
        .args(["--output=/dev/null", "--output-format=simple0"])
        .arg(format!("--output-directory={}", folder.display()))
        .limit(MAKE);
    let made = run.run().map_err(|error| HypervisorError::Missing(detail(&error.said())));
    let image = folder.join("kernel");
    let made = made.and_then(|_| Ok(std::fs::read(&image).map_err(files::at(&image))?));
    sweep(id)?;
    made
}

/// Removes what has been left behind by a program that was killed while it made the machine's boot
/// loader.
pub(super) fn sweep(id: VmId) -> Result<(), HypervisorError> {
    let folder = workshop(id);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files::at(&folder)(error).into()),
        _ => Ok(()),
    }
}

/// Returns where the boot loader of a machine is made, by one program at a time. Only root can write
/// there, and it takes no room on a disk.
pub(super) fn workshop(id: VmId) -> PathBuf {
    PathBuf::from(format!("/run/vgrid-pvgrub-{id}"))
}

/// Makes a boot loader for nobody, to see whether it can be done.
pub fn try_boot_loader() -> Result<(), HypervisorError> {
    let definition = "<domain><os><cmdline>root=/dev/xvda1 ro</cmdline></os></domain>";
    boot_loader(Path::new(MAKE_BOOT_LOADER), VmId::generate(), definition).map(drop)
}

/// Starts a domain. It is no error if it is running already.
pub(super) fn start(virsh: &Virsh, uuid: Uuid) -> Result<(), HypervisorError> {
    let log = Path::new(LOG);
    let length = log.metadata().map_or(0, |facts| facts.len());
    virsh.start(uuid).map_err(|error| {
        let is_unsaid = matches!(&error, HypervisorError::Other(text) if text.starts_with(UNSAID));
        if is_unsaid { explained(error, &news(log, length)) } else { error }
    })
}

/// Asks a domain to shut down, also one that `xl` has started.
pub(super) fn shut_down(virsh: &Virsh, xl: &Xen, domain: &Listed, uuid: Uuid) -> Result<(), HypervisorError> {
    match virsh.shut_down(uuid, false) {
        Err(HypervisorError::NoSuchDomain) => xl.shut_down(domain),
        other => other,
    }
}

/// Ends a domain. One that libvirt does not take for running has ended, and is about to be removed
/// by libvirt, or it is `xl`'s.
pub(super) fn destroy(virsh: &Virsh, xl: &Xen, domain: &Listed, uuid: Uuid) -> Result<(), HypervisorError> {
    match virsh.destroy(uuid) {
        Err(HypervisorError::NoSuchDomain) => {}
        other => return other,
    }
    let end = Instant::now() + LETS_GO;
    while Instant::now() < end {
        match xl.domains()?.into_iter().find(|listed| listed.number == domain.number) {
            None => return Ok(()),
            // libvirt would have nothing to do with it.
            Some(listed) if listed.state.is_running() || listed.state.is_paused() => break,
            Some(_) => std::thread::sleep(LOOK),
        }
    }
    xl.destroy(domain)
}

/// Returns what has been added to a log since it had this length. A shorter one is another.
fn news(log: &Path, length: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let now = file.metadata()?.len();
        let start = if now < length { 0 } else { length };
        file.seek(SeekFrom::Start(start.max(now.saturating_sub(NEWS))))?;
        file.take(NEWS).read_to_end(&mut bytes)
    });
    // A log that can't be read explains nothing.
    if read.is_err() { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() }
}

/// Replaces an error by its cause, if what libxl said meanwhile tells.
fn explained(error: HypervisorError, news: &str) -> HypervisorError {
    if news.trim().is_empty() { error } else { output::explain(news) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: &str = include_str!("../../../../tests/data/libxl-driver.txt");

    fn case(name: &str) -> &'static str {
        let (_, text) = TEXTS.split_once(&format!("=== {name}\n")).unwrap_or_else(|| panic!("no {name}"));
        text.split("===").next().unwrap()
    }

    #[test]
    fn the_reason_for_a_failed_start_is_in_libvirts_log() {
        use HypervisorError as E;
        let unsaid = || E::Other(format!("{UNSAID} 'alice_vm1'"));
        let cause = |name: &str| explained(unsaid(), case(name));
        assert_eq!(cause("memory"), E::NoMemory);
        assert_eq!(cause("exists"), E::NameTaken);
        for (name, words) in [
            ("bridge", "the network bridge nosuchbr is missing on this host"),
            ("smallmemory", "its memory is too small for its kernel"),
            (
                "nodisk",
                "Disk vdev=xvda1 failed to stat: /dev/vg1/nosuchlv: No such file or directory; Unable to set disk defaults for disk 0",
            ),
            (
                "mounted",
                "Device /dev/dm-0 is mounted in the privileged domain,; and so cannot be mounted by a guest.; unable to add disk devices",
            ),
            (
                "inuse",
                "Device /dev/dm-0 is mounted in a guest domain,; and so cannot be mounted now.; unable to add disk devices",
            ),
            ("notakernel", "no loader found: Invalid kernel; xc_dom_parse_image failed"),
        ] {
            assert_eq!(cause(name), E::Other(words.to_owned()), "{name}");
        }
        let E::Other(words) = cause("nokernel") else { panic!("another cause") };
        assert!(words.starts_with("failed to open file '/var/lib/vgrid-machines/"), "{words}");
        assert_eq!(explained(unsaid(), "\n"), unsaid());
    }

    #[test]
    fn only_what_is_new_in_a_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(news(&log, 0), "");
        std::fs::write(&log, "old\nnew\n").unwrap();
        assert_eq!(news(&log, 4), "new\n");
        assert_eq!(news(&log, 8), "");
        assert_eq!(news(&log, 100), "old\nnew\n", "it is another log");
        std::fs::write(&log, "x".repeat(128 << 10) + "end").unwrap();
        let read = news(&log, 0);
        assert!(read.len() as u64 == NEWS && read.ends_with("end"));
    }
}
