//! `discard`: the one verb about what vGrid did not make, for hosts whose root has allowed it
//! (`removeStrangers` in `node.cfg`). What vGrid made it leaves alone: that goes by `undo`, with the machine's id.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::machine::{GONE, HEADER, parked};
use super::{Failure, Host};
use crate::model::fault::{self, Fault};
use crate::model::names::{MachineName, StrangerDomain, StrangerVolume, VmId};
use crate::node::hypervisor::{Hypervisor, HypervisorError, Listed};
use crate::node::lvm::{LvmError, Standing};
use crate::system::log::{self, Level};

/// The pause between two looks at a domain that was destroyed.
const PAUSE: Duration = Duration::from_millis(300);

/// The refusal of what is no stranger, or can't be removed.
fn kept(why: impl Into<String>) -> Failure {
    Fault::StrangerKept { why: why.into() }.into()
}

impl Host {
    fn must_be_allowed(&self) -> Result<(), Failure> {
        if self.config.general.remove_strangers { Ok(()) } else { Err(Fault::StrangersProtected.into()) }
    }

    /// Removes a volume of the group that carries no tag of vGrid's, that nothing has open and that nothing else goes
    /// with. One that is gone is as good.
    pub fn discard_volume(&self, name: &StrangerVolume) -> Result<(), Failure> {
        self.must_be_allowed()?;
        let lvm = self.lvm();
        let Some(standing) = lvm.standing(name.as_str())? else { return Ok(()) };
        judge_volume(name, standing).map_err(kept)?;
        if let Some(machine) = name.machine()
            && let Some(file) = self.configurations()?.into_iter().find(|made| made.names(machine.as_str()))
        {
            return Err(kept(format!("vGrid has made a machine {machine} here ({})", file.path.display())));
        }
        match lvm.remove(name.as_str()) {
            Ok(()) | Err(LvmError::VolumeMissing) => {
                log::event(Level::Info, "stranger.removed", &[("volume", name)]);
                Ok(())
            }
            Err(error @ (LvmError::GroupMissing(_) | LvmError::TimedOut { .. })) => Err(error.into()),
            Err(error) => Err(kept(fault::detail(&format!("LVM refused: {error}")))),
        }
    }

    /// Ends the domain that has this name and this number, if it is none of vGrid's, and waits until it is gone. One
    /// that is gone already is as good.
    pub fn discard_domain(&self, name: &StrangerDomain, number: u32) -> Result<(), Failure> {
        self.must_be_allowed()?;
        let hypervisor = self.hypervisor()?;
        let domains = hypervisor.domains()?;
        let Some(domain) = find(&domains, name, number).map_err(kept)? else { return Ok(()) };
        if let Some(made) = self.configurations()?.into_iter().find(|made| made.is_of(domain)) {
            return Err(kept(format!("vGrid has made that machine ({})", made.path.display())));
        }
        destroy(hypervisor.as_ref(), number)?;
        log::event(Level::Info, "stranger.removed", &[("domain", name), ("number", &number)]);
        Ok(())
    }

    /// The configurations of machines that vGrid has installed here or put aside.
    pub(super) fn configurations(&self) -> Result<Vec<Made>, Failure> {
        let dir = self.auto_directory()?;
        let unread =
            |path: &Path, error: &io::Error| Failure::internal(format!("{}: {error}", path.display()));
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(|error| unread(&dir, &error))? {
            let path = entry.map_err(|error| unread(&dir, &error))?.path();
            all.extend(Made::read(&path).map_err(|error| unread(&path, &error))?);
        }
        Ok(all)
    }
}

/// A configuration that vGrid made.
pub(super) struct Made {
    path: PathBuf,
    /// The machine's id, if the file still says it as it was written.
    id: Option<VmId>,
}

impl Made {
    /// The configuration in a file, if it begins as those do that vGrid made. A link, or what is no file, is none.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let beginning = || {
            let mut bytes = Vec::new();
            if std::fs::symlink_metadata(path)?.is_file() {
                let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
                file.take(200).read_to_end(&mut bytes)?;
            }
            Ok::<_, io::Error>(bytes)
        };
        let bytes = match beginning() {
            // Removed since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.strip_prefix(HEADER).map(|rest| Self {
            path: path.to_owned(),
            id: rest.split_whitespace().next().and_then(|id| id.parse().ok()),
        }))
    }

    /// The machine that it is of, be it installed or put aside.
    pub(super) fn machine(&self) -> Option<MachineName> {
        let name = self.path.file_name()?.to_str()?;
        let aside = || name.strip_prefix('.')?.strip_suffix(".cfg.stopped");
        aside().or_else(|| name.strip_suffix(".cfg"))?.parse().ok()
    }

    /// Whether it is the configuration of the machine of that name, be it installed or put aside.
    fn names(&self, machine: &str) -> bool {
        let installed = PathBuf::from(format!("{machine}.cfg"));
        let aside = parked(&installed);
        [installed.as_os_str(), aside.as_os_str()].into_iter().any(|name| self.path.file_name() == Some(name))
    }

    /// Whether a domain is the machine that it was made for, by name or by UUID.
    fn is_of(&self, domain: &Listed) -> bool {
        let same = |id: VmId| domain.uuid.is_some_and(|uuid| uuid.hyphenated().to_string() == id.to_string());
        self.names(&domain.name) || self.id.is_some_and(same)
    }
}

/// Says why a volume must stay, if it must.
fn judge_volume(name: &StrangerVolume, standing: Standing) -> Result<(), String> {
    if standing.tagged {
        Err(format!("the volume {name} carries a tag of vGrid's"))
    } else if standing.open {
        Err(format!("the volume {name} is in use"))
    } else if !standing.alone {
        Err(format!("the volume {name} is a pool or has snapshots, which would go with it"))
    } else {
        Ok(())
    }
}

/// The domain that has this name and this number; `None` if there is neither, and a reason if they do not go together.
fn find<'a>(domains: &'a [Listed], name: &StrangerDomain, number: u32) -> Result<Option<&'a Listed>, String> {
    if number == 0 {
        return Err("the number 0 is the control domain's".to_owned());
    }
    let named = || domains.iter().find(|domain| domain.name == name.as_str());
    match domains.iter().find(|domain| domain.id == number) {
        Some(domain) if domain.name == name.as_str() => Ok(Some(domain)),
        Some(_) => Err(format!("the domain {number} is not called {name}")),
        None => match named() {
            Some(domain) => Err(format!("the domain {name} has the number {} by now", domain.id)),
            None => Ok(None),
        },
    }
}

/// Ends a domain and waits until it is gone. While it is dying it may be listed without its name; Xen gives its number
/// to another only after all others.
fn destroy(hypervisor: &dyn Hypervisor, number: u32) -> Result<(), Failure> {
    let end = Instant::now() + GONE;
    loop {
        let last = match hypervisor.destroy(number) {
            Ok(()) | Err(HypervisorError::NoSuchDomain) => "it does not end".to_owned(),
            Err(error) => error.to_string(),
        };
        if !hypervisor.domains()?.iter().any(|domain| domain.id == number) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(kept(fault::detail(&format!("the domain {number}: {last}"))));
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::size::Amount;

    fn listed(name: &str, id: u32) -> Listed {
        let (memory, state) = (Amount::from_mib(96), "-b----".to_owned());
        Listed { name: name.to_owned(), id, memory, state, used: 1, uuid: None }
    }

    #[test]
    fn a_domain_is_known_by_name_and_number_together() {
        let domains = [listed("Domain-0", 0), listed("somebody", 3), listed("other", 4)];
        let name: StrangerDomain = "somebody".parse().unwrap();
        assert_eq!(find(&domains, &name, 3), Ok(Some(&domains[1])));
        for (number, why) in [(0, "control domain"), (4, "is not called somebody"), (9, "number 3 by now")] {
            let said = find(&domains, &name, number).unwrap_err();
            assert!(said.contains(why), "{number}: {said}");
        }
        assert_eq!(find(&domains[..1], &name, 3), Ok(None), "gone");
    }

    #[test]
    fn only_a_volume_that_is_nobody_s_and_takes_nothing_with_it_goes() {
        let name: StrangerVolume = "xen-root-old".parse().unwrap();
        let free = Standing { tagged: false, open: false, alone: true };
        assert_eq!(judge_volume(&name, free), Ok(()));
        for (standing, why) in [
            (Standing { tagged: true, ..free }, "tag"),
            (Standing { open: true, ..free }, "in use"),
            (Standing { alone: false, ..free }, "snapshots"),
        ] {
            let said = judge_volume(&name, standing).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_vgrid_made_is_known_by_its_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let id = VmId::generate();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let made = |name: &str| Made::read(&dir.path().join(name)).unwrap();
        put("alice_vm1.cfg", &format!("{HEADER}{id} - made and removed by vGrid\nname = 'x'\n"));
        put(".bob_vm2.cfg.stopped", &format!("{HEADER}changed by hand"));
        put("other.cfg", "name = 'other'\n");
        std::os::unix::fs::symlink(dir.path().join("alice_vm1.cfg"), dir.path().join("link.cfg")).unwrap();
        let alice = made("alice_vm1.cfg").unwrap();
        assert!(alice.names("alice_vm1") && !alice.names("alice_vm11") && !alice.names("bob_vm2"));
        assert!(alice.is_of(&listed("alice_vm1", 3)) && !alice.is_of(&listed("renamed", 3)));
        let uuid = uuid::Uuid::try_parse(&id.to_string()).ok();
        assert!(alice.is_of(&Listed { uuid, ..listed("renamed", 3) }));
        assert!(made(".bob_vm2.cfg.stopped").unwrap().names("bob_vm2"));
        assert!(made("other.cfg").is_none() && made("link.cfg").is_none());
        assert!(made("").is_none(), "a folder is none");
        assert!(made("gone.cfg").is_none());
    }

    #[test]
    fn nothing_is_even_looked_at_unless_root_has_allowed_it() {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/etc"));
        let host = Host { config: crate::config::Node::load(&dir).unwrap(), dir };
        for refused in [
            host.discard_volume(&"xen-root-old".parse().unwrap()),
            host.discard_domain(&"somebody".parse().unwrap(), 3),
        ] {
            assert_eq!(refused.unwrap_err().fault, Some(Fault::StrangersProtected));
        }
    }

    /// A toolstack with one domain, which is destroyed at the third try.
    struct Slow(std::cell::Cell<u32>);

    impl Hypervisor for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        fn memory(&self) -> Result<crate::node::hypervisor::Memory, HypervisorError> {
            Err(HypervisorError::NoMemory)
        }
        fn domains(&self) -> Result<Vec<Listed>, HypervisorError> {
            Ok(if self.0.get() < 3 { vec![listed("(null)", 3)] } else { Vec::new() })
        }
        fn check(&self, _: &Path) -> Result<Option<crate::node::hypervisor::Described>, HypervisorError> {
            Ok(None)
        }
        fn create(&self, _: &Path, _: &crate::model::names::MachineName) -> Result<(), HypervisorError> {
            Err(HypervisorError::NoMemory)
        }
        fn shut_down(&self, _: u32) -> Result<(), HypervisorError> {
            Ok(())
        }
        fn press(&self, _: u32, _: crate::node::hypervisor::SysRq) -> Result<(), HypervisorError> {
            Ok(())
        }
        fn destroy(&self, domain: u32) -> Result<(), HypervisorError> {
            assert_eq!(domain, 3);
            self.0.set(self.0.get() + 1);
            Ok(())
        }
        fn minds(&self, _: &[String], _: &Path) -> bool {
            false
        }
    }

    #[test]
    fn a_domain_that_dies_slowly_is_waited_for() {
        let slow = Slow(std::cell::Cell::new(0));
        destroy(&slow, 3).unwrap();
        assert_eq!(slow.0.get(), 3);
    }
}
