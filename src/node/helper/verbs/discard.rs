//! `discard`: removes volumes and domains that vGrid did not create, on hosts whose administrator
//! has enabled it (`removeStrangers` in `node.cfg`). It refuses to touch anything created by vGrid,
//! which `undo` removes by the machine's id.

use std::time::{Duration, Instant};

use crate::model::fault::{self, Fault};
use crate::model::names::{DomainNumber, ForeignDomain, ForeignVolume};
use crate::node::helper::domains::GONE;
use crate::node::helper::failure::Failure;
use crate::node::helper::host::Host;
use crate::node::hypervisor::{Hypervisor, HypervisorError, Listed};
use crate::node::storage::{Standing, StorageError};
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
        let storage = self.storage();
        let Some(standing) = storage.standing(name.as_str())? else { return Ok(()) };
        judge_volume(name, standing).map_err(kept)?;
        if let Some(machine) = name.machine() {
            for hypervisor in self.all_hypervisors() {
                let made = hypervisor.all_installed()?;
                if let Some(made) = made.into_iter().find(|made| made.name == machine.as_str()) {
                    let file = made.file.display();
                    return Err(kept(format!("vGrid has made a machine {machine} here ({file})")));
                }
            }
        }
        match storage.remove(&[name.as_str()]) {
            Ok(()) | Err(StorageError::VolumeMissing) => {
                log::event(Level::Info, "stranger.removed", &[("stranger", name)]);
                Ok(())
            }
            Err(error @ (StorageError::GroupMissing(_) | StorageError::TimedOut { .. })) => Err(error.into()),
            Err(error) => Err(kept(fault::detail(&format!("LVM refused: {error}")))),
        }
    }

    /// Destroys the domain with this name and number, unless vGrid created it, and waits until it
    /// is gone. It is no error if there is no such domain.
    pub fn discard_domain(&self, name: &ForeignDomain, number: DomainNumber) -> Result<(), Failure> {
        self.must_be_allowed()?;
        for hypervisor in self.hypervisors() {
            let domains = hypervisor.domains()?;
            let Some(domain) = find(&domains, name, number).map_err(kept)? else { continue };
            for hypervisor in self.all_hypervisors() {
                if let Some(made) = hypervisor.all_installed()?.into_iter().find(|made| made.is_of(domain)) {
                    return Err(kept(format!("vGrid has made that machine ({})", made.file.display())));
                }
            }
            destroy(hypervisor.as_ref(), domain)?;
            log::event(Level::Info, "stranger.removed", &[("stranger", name), ("domain", &number)]);
        }
        Ok(())
    }
}

/// Builds the refusal to remove something that vGrid created, or that can't be removed.
fn kept(why: impl Into<String>) -> Failure {
    Fault::StrangerKept { why: why.into() }.into()
}

/// Returns why a volume must be kept, if so, as an error.
fn judge_volume(name: &ForeignVolume, standing: Standing) -> Result<(), String> {
    if standing.marked {
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
fn find<'a>(
    domains: &'a [Listed],
    name: &ForeignDomain,
    number: DomainNumber,
) -> Result<Option<&'a Listed>, String> {
    if number == DomainNumber::CONTROL {
        return Err("the number 0 is the control domain's".to_owned());
    }
    let named = || domains.iter().find(|domain| domain.name == name.as_str());
    match domains.iter().find(|domain| domain.number == number) {
        Some(domain) if domain.name == name.as_str() => Ok(Some(domain)),
        Some(_) => Err(format!("the domain {number} is not called {name}")),
        None => match named() {
            Some(domain) => Err(format!("the domain {name} has the number {} by now", domain.number)),
            None => Ok(None),
        },
    }
}

/// Destroys a domain and waits until it is gone. It is identified by its number only: a dying
/// domain may be listed without its name, and Xen reuses a number only after all others.
fn destroy(hypervisor: &dyn Hypervisor, domain: &Listed) -> Result<(), Failure> {
    let end = Instant::now() + GONE;
    loop {
        let last = match hypervisor.destroy(domain) {
            Ok(()) | Err(HypervisorError::NoSuchDomain) => "it does not end".to_owned(),
            Err(error) => error.to_string(),
        };
        if !hypervisor.domains()?.iter().any(|listed| listed.number == domain.number) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(kept(fault::detail(&format!("the domain {}: {last}", domain.number))));
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::model::names::MachineName;
    use crate::model::size::Amount;
    use crate::node::Machine;
    use crate::node::hypervisor::{Boot, DomainState, Installed, Memory};
    use crate::node::storage::Listing;
    use crate::template::machine::LibvirtValues;

    fn listed(name: &str, number: u32) -> Listed {
        let (memory, state) = (Amount::from_mib(96), DomainState::Running);
        Listed {
            name: name.to_owned(),
            number: DomainNumber::new(number),
            memory,
            state,
            used: 1,
            uuid: None,
        }
    }

    #[test]
    fn a_domain_must_match_by_name_and_number() {
        let domains = [listed("Domain-0", 0), listed("somebody", 3), listed("other", 4)];
        let name: ForeignDomain = "somebody".parse().unwrap();
        assert_eq!(find(&domains, &name, DomainNumber::new(3)), Ok(Some(&domains[1])));
        for (number, why) in [(0, "control domain"), (4, "is not called somebody"), (9, "number 3 by now")] {
            let message = find(&domains, &name, DomainNumber::new(number)).unwrap_err();
            assert!(message.contains(why), "{number}: {message}");
        }
        assert_eq!(find(&domains[..1], &name, DomainNumber::new(3)), Ok(None), "gone");
    }

    #[test]
    fn only_a_foreign_unused_and_independent_volume_is_removed() {
        let name: ForeignVolume = "xen-root-old".parse().unwrap();
        let free = Standing { marked: false, open: false, alone: true };
        assert_eq!(judge_volume(&name, free), Ok(()));
        for (standing, why) in [
            (Standing { marked: true, ..free }, "tag"),
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
        let config = crate::config::Node::load(&dir).unwrap();
        let host = Host { config, dir, listing: Listing::default() };
        for refused in [
            host.discard_volume(&"xen-root-old".parse().unwrap()),
            host.discard_domain(&"somebody".parse().unwrap(), DomainNumber::new(3)),
        ] {
            assert_eq!(refused.unwrap_err().fault, Some(Fault::StrangersProtected));
        }
    }

    /// A toolstack with one domain, which takes three attempts to destroy.
    struct Slow(AtomicU32);

    type Answer<T> = Result<T, HypervisorError>;

    impl Hypervisor for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        fn domains(&self) -> Answer<Vec<Listed>> {
            Ok(if self.0.load(Ordering::Relaxed) < 3 { vec![listed("(null)", 3)] } else { Vec::new() })
        }
        fn destroy(&self, domain: &Listed) -> Answer<()> {
            assert_eq!(domain.number, DomainNumber::new(3));
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        fn overhead(&self) -> Amount {
            unreachable!()
        }
        fn speaks_at_once(&self) -> bool {
            unreachable!()
        }
        fn placeholders(&self, _: &Machine) -> LibvirtValues {
            unreachable!()
        }
        fn memory(&self) -> Answer<Memory> {
            unreachable!()
        }
        fn check(&self, _: &Machine, _: &str) -> Answer<()> {
            unreachable!()
        }
        fn install(&self, _: &Machine, _: &str, _: Boot) -> Answer<()> {
            unreachable!()
        }
        fn install_seed(&self, _: &Machine, _: &[u8]) -> Answer<()> {
            unreachable!()
        }
        fn installed(&self, _: &Machine) -> Answer<Option<Boot>> {
            unreachable!()
        }
        fn definition(&self, _: &Machine) -> Answer<String> {
            unreachable!()
        }
        fn all_installed(&self) -> Answer<Vec<Installed>> {
            unreachable!()
        }
        fn set_boot(&self, _: &Machine, _: Boot) -> Answer<()> {
            unreachable!()
        }
        fn started_with_host(&self) -> Answer<Option<Vec<uuid::Uuid>>> {
            unreachable!()
        }
        fn uninstall(&self, _: &Machine) -> Answer<()> {
            unreachable!()
        }
        fn start(&self, _: &Machine) -> Answer<()> {
            unreachable!()
        }
        fn shut_down(&self, _: &Listed) -> Answer<()> {
            unreachable!()
        }
        fn write_out(&self, _: &Listed) -> Answer<()> {
            unreachable!()
        }
        fn release(&self, _: &Machine) {
            unreachable!()
        }
        fn bridges(&self, _: &str) -> Answer<Vec<String>> {
            unreachable!()
        }
        fn restarts_after_shutdown(&self, _: &Machine) -> Answer<bool> {
            unreachable!()
        }
        fn console_log(&self, _: &MachineName) -> Answer<Option<PathBuf>> {
            unreachable!()
        }
    }

    #[test]
    fn destroying_waits_for_a_slowly_dying_domain() {
        let slow = Slow(AtomicU32::new(0));
        destroy(&slow, &listed("(null)", 3)).unwrap();
        assert_eq!(slow.0.load(Ordering::Relaxed), 3);
    }
}
