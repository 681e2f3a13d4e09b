//! `discard`: removes volumes and domains that vGrid did not create, on hosts whose administrator
//! has enabled it (`removeStrangers` in `node.cfg`). It refuses to touch anything created by vGrid,
//! which `undo` removes by the machine's id.

use std::time::{Duration, Instant};

use crate::model::fault::{self, Fault};
use crate::model::names::{ForeignDomain, ForeignVolume};
use crate::node::helper::domains::GONE;
use crate::node::helper::failure::Failure;
use crate::node::helper::host::Host;
use crate::node::hypervisor::{Hypervisor, HypervisorError, Listed};
use crate::node::lvm::{LvmError, Standing};
use crate::system::log::{self, Level};

/// The polling interval while a destroyed domain disappears.
const PAUSE: Duration = Duration::from_millis(300);

impl Host {
    fn must_be_allowed(&self) -> Result<(), Failure> {
        if self.config.general.remove_strangers { Ok(()) } else { Err(Fault::StrangersProtected.into()) }
    }

    /// Removes a volume of the group, provided that it has no vGrid tag, is not in use and has no
    /// dependent volumes. It is no error if there is no such volume.
    pub fn discard_volume(&self, name: &ForeignVolume) -> Result<(), Failure> {
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
                log::event(Level::Info, "stranger.removed", &[("stranger", name)]);
                Ok(())
            }
            Err(error @ (LvmError::GroupMissing(_) | LvmError::TimedOut { .. })) => Err(error.into()),
            Err(error) => Err(kept(fault::detail(&format!("LVM refused: {error}")))),
        }
    }

    /// Destroys the domain with this name and number, unless vGrid created it, and waits until it
    /// is gone. It is no error if there is no such domain.
    pub fn discard_domain(&self, name: &ForeignDomain, number: u32) -> Result<(), Failure> {
        self.must_be_allowed()?;
        let hypervisor = self.hypervisor()?;
        let domains = hypervisor.domains()?;
        let Some(domain) = find(&domains, name, number).map_err(kept)? else { return Ok(()) };
        if let Some(made) = self.configurations()?.into_iter().find(|made| made.is_of(domain)) {
            return Err(kept(format!("vGrid has made that machine ({})", made.path.display())));
        }
        destroy(hypervisor.as_ref(), number)?;
        log::event(Level::Info, "stranger.removed", &[("stranger", name), ("domain", &number)]);
        Ok(())
    }
}

/// Builds the refusal to remove something that vGrid created, or that can't be removed.
fn kept(why: impl Into<String>) -> Failure {
    Fault::StrangerKept { why: why.into() }.into()
}

/// Returns why a volume must be kept, if so, as an error.
fn judge_volume(name: &ForeignVolume, standing: Standing) -> Result<(), String> {
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

/// Finds the domain with this name and number. Returns `None` if neither exists, and an error if
/// they belong to different domains.
fn find<'a>(domains: &'a [Listed], name: &ForeignDomain, number: u32) -> Result<Option<&'a Listed>, String> {
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

/// Destroys a domain and waits until it is gone. It is identified by its number only: a dying
/// domain may be listed without its name, and Xen reuses a number only after all others.
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
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::model::size::Amount;

    fn listed(name: &str, id: u32) -> Listed {
        let (memory, state) = (Amount::from_mib(96), "-b----".to_owned());
        Listed { name: name.to_owned(), id, memory, state, used: 1, uuid: None }
    }

    #[test]
    fn a_domain_must_match_by_name_and_number() {
        let domains = [listed("Domain-0", 0), listed("somebody", 3), listed("other", 4)];
        let name: ForeignDomain = "somebody".parse().unwrap();
        assert_eq!(find(&domains, &name, 3), Ok(Some(&domains[1])));
        for (number, why) in [(0, "control domain"), (4, "is not called somebody"), (9, "number 3 by now")] {
            let message = find(&domains, &name, number).unwrap_err();
            assert!(message.contains(why), "{number}: {message}");
        }
        assert_eq!(find(&domains[..1], &name, 3), Ok(None), "gone");
    }

    #[test]
    fn only_a_foreign_unused_and_independent_volume_is_removed() {
        let name: ForeignVolume = "xen-root-old".parse().unwrap();
        let free = Standing { tagged: false, open: false, alone: true };
        assert_eq!(judge_volume(&name, free), Ok(()));
        for (standing, why) in [
            (Standing { tagged: true, ..free }, "tag"),
            (Standing { open: true, ..free }, "in use"),
            (Standing { alone: false, ..free }, "snapshots"),
        ] {
            let message = judge_volume(&name, standing).unwrap_err();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn discarding_is_refused_by_default() {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/etc"));
        let host = Host { config: crate::config::Node::load(&dir).unwrap(), dir };
        for refused in [
            host.discard_volume(&"xen-root-old".parse().unwrap()),
            host.discard_domain(&"somebody".parse().unwrap(), 3),
        ] {
            assert_eq!(refused.unwrap_err().fault, Some(Fault::StrangersProtected));
        }
    }

    /// A toolstack with one domain, which takes three attempts to destroy.
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
    fn destroying_waits_for_a_slowly_dying_domain() {
        let slow = Slow(std::cell::Cell::new(0));
        destroy(&slow, 3).unwrap();
        assert_eq!(slow.0.get(), 3);
    }
}
