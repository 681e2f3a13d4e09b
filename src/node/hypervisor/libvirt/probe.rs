//! Finds out whether a machine gets processor time: starts one that is only a boot loader, which
//! says on its console that there is nothing to boot.
//!
//! Nothing else proves it. Where the host is itself a guest, `/dev/kvm` may be there, `virsh start`
//! succeed and `virsh domstate` say "running", and yet the machine never executes an instruction.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{CONSOLES, Libvirt};
use crate::config::NodeGeneral;
use crate::node::files;
use crate::node::hypervisor::HypervisorError;

/// What the boot loader says first (bin/node/pcgrub).
const WORD: &str = "vGrid: the boot loader runs";

/// How long the machine may stay silent. Under KVM it speaks within two seconds, emulated on a busy
/// host within ten.
const PATIENCE: Duration = Duration::from_secs(30);

/// The polling interval.
const LOOK: Duration = Duration::from_millis(100);

/// Makes the boot loader unless it is there, and returns its path.
pub fn boot_loader(general: &NodeGeneral) -> Result<PathBuf, HypervisorError> {
    let libvirt = Libvirt::new(general);
    libvirt.make_boot_loader()?;
    Ok(libvirt.boot_loader)
}

/// Starts a machine that has a boot loader and nothing else. Returns how long it took to say a word.
/// Leaves nothing behind.
pub fn run(general: &NodeGeneral, boot_loader: &Path) -> Result<Duration, HypervisorError> {
    let virsh = Libvirt::new(general).virsh()?;
    let (name, uuid) = (format!("vgrid-check-{}", std::process::id()), Uuid::now_v7());
    let console = PathBuf::from(format!("{CONSOLES}/guest-{name}.log"));
    let definition = PathBuf::from(format!("/run/{name}.xml"));
    // libvirt gives it to its own user.
    let copy = PathBuf::from(format!("/run/{name}.img"));
    let content = std::fs::read(boot_loader).map_err(files::at(boot_loader))?;
    files::write_new(
        &definition,
        &format!(
            "<domain type='{}'>\n<name>{name}</name>\n<uuid>{uuid}</uuid>\n<memory unit='MiB'>32</memory>\n<vcpu>1</vcpu>\n\
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{}</kernel></os>\n\
             <features><acpi/></features>\n\
             <devices><serial type='pty'><log file='{}' append='off'/><target port='0'/></serial>\n\
             <controller type='usb' model='none'/><memballoon model='none'/></devices>\n</domain>\n",
            if general.allow_emulation { "qemu" } else { "kvm" },
            copy.display(),
            console.display(),
        ),
    )?;
    let began = Instant::now();
    let created =
        files::write_new(&copy, content).map_err(Into::into).and_then(|()| virsh.create(&definition));
    // QEMU has read it by now.
    for file in [&definition, &copy] {
        files::remove(file)?;
    }
    created?;
    let spoke = loop {
        let text = files::read_text(&console, 64 << 10)?;
        if text.contains(WORD) {
            break Ok(began.elapsed());
        }
        if began.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            let kind = if general.allow_emulation { "an emulated processor" } else { "KVM" };
            break Err(HypervisorError::Other(format!(
                "a machine with {kind} is said to run, but has not said a word within {seconds} s"
            )));
        }
        std::thread::sleep(LOOK);
    };
    match virsh.destroy(uuid) {
        Ok(()) | Err(HypervisorError::NoSuchDomain) => {}
        Err(error) => return Err(error),
    }
    files::remove(&console)?;
    spoke
}
