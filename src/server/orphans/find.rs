//! Finding orphans: what a host has and the registry does not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::names::{VOLUME_PREFIXES, VmId};
use crate::model::stage::Order;
use crate::model::wire::NodeInfo;
use crate::server::registry::orphan::{Orphan, OrphanKind};
use crate::server::registry::vm::Vm;

/// The control domain, which is not a machine (xl(1)).
const CONTROL: &str = "Domain-0";

/// What a host has that the server does not expect there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unexpected {
    /// The orphans, for administrators to look at.
    pub strays: Vec<Orphan>,
    /// Ids that the host has something of but that belong to no live machine on it.
    pub ids: BTreeSet<VmId>,
}

/// Returns what is on a host but belongs to none of the machines that should be there.
pub fn unexpected(vms: &[&Vm], images: &BTreeSet<String>, info: &NodeInfo) -> Unexpected {
    let ids: BTreeSet<VmId> = vms.iter().map(|vm| vm.id).collect();
    let names: BTreeSet<String> =
        vms.iter().filter_map(|vm| vm.machine_name().ok()).map(|name| name.to_string()).collect();
    let mut found = Unexpected::default();
    let mut strange = |kind, name: &str, detail: String| {
        found.strays.push(Orphan { kind, name: name.to_owned(), detail });
    };
    for domain in info.domains.iter().filter(|domain| domain.name != CONTROL) {
        if !names.contains(&domain.name) {
            strange(OrphanKind::Domain, &domain.name, format!("{}, {}", domain.memory, domain.state));
        }
    }
    for volume in &info.volumes {
        let ours = VOLUME_PREFIXES.iter().any(|prefix| volume.name.starts_with(prefix));
        match volume.machine {
            Some(id) if ids.contains(&id) => {}
            Some(id) => {
                strange(OrphanKind::Volume, &volume.name, format!("{}, of machine {id}", volume.size));
            }
            None if ours => strange(OrphanKind::Volume, &volume.name, volume.size.to_string()),
            None => {}
        }
    }
    for job in info.jobs.iter().filter(|job| !ids.contains(&job.id)) {
        let doing = job.work.map_or("nothing is being done", Order::as_str);
        strange(OrphanKind::Record, &job.id.to_string(), format!("{}; {doing}", job.machine));
    }
    for image in info.saved.iter().filter(|image| !images.contains(&image.stem)) {
        strange(OrphanKind::Image, &image.stem, format!("{} bytes", image.bytes));
    }
    let jobs = info.jobs.iter().map(|job| job.id);
    let volumes = info.volumes.iter().filter_map(|volume| volume.machine);
    found.ids = jobs.chain(volumes).filter(|id| !ids.contains(id)).collect();
    found
}

/// The most orphans of one kind that are recorded per host. Nobody with more will look at each.
const MOST: usize = 200;

/// The most orphaned records of machines: each can be adopted.
const MOST_RECORDS: usize = 1000;

/// Returns the orphans on a host that are recorded: the first of each kind, in an order that is the
/// same every time. Those with a machine's name come first, because that name must not be given
/// out.
pub fn remembered(strays: &[Orphan]) -> Vec<&Orphan> {
    let mut sorted: Vec<&Orphan> = strays.iter().collect();
    sorted.sort_by_cached_key(|stray| (stray.kind, stray.virtual_host().is_none(), &stray.name));
    let mut seen: BTreeMap<OrphanKind, usize> = BTreeMap::new();
    sorted.retain(|stray| {
        let many = seen.entry(stray.kind).or_default();
        *many += 1;
        *many <= if stray.kind == OrphanKind::Record { MOST_RECORDS } else { MOST }
    });
    sorted
}

#[cfg(test)]
pub(in crate::server) mod tests {
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::names::DomainNumber;
    use crate::model::size::Amount;
    use crate::model::wire::{Domain, HostFacts, Job, SavedFile, Volume};
    use crate::server::registry::Registry;
    use crate::server::registry::vm::tests::entered;

    /// Returns the report of a host that has nothing.
    pub fn info() -> NodeInfo {
        NodeInfo {
            host: HostFacts {
                memory_free: Amount::default(),
                memory_total: Amount::default(),
                disk_free: Amount::default(),
                disk_total: Amount::default(),
                version: String::new(),
                max_cpus: None,
                images: None,
                emulated: false,
                snapshots: false,
                pool: None,
                common_digest: String::new(),
            },
            toolstack: "xl".to_owned(),
            domains: vec![domain(CONTROL)],
            volumes: Vec::new(),
            jobs: Vec::new(),
            images: Vec::new(),
            saved: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// Returns a domain on a host.
    pub fn domain(name: &str) -> Domain {
        Domain {
            name: name.to_owned(),
            id: DomainNumber::new(1),
            memory: Amount::default(),
            state: "running".to_owned(),
        }
    }

    fn vm(owner: &str, name: &str) -> Vm {
        let dir = tempfile::tempdir().unwrap();
        entered(&mut Registry::create(&dir.path().join("registry.sqlite")).unwrap(), owner, "node1", name)
    }

    fn job(vm: &Vm, work: Option<Order>) -> Job {
        let (id, machine, number) = (vm.id, vm.machine_name().unwrap(), vm.number);
        Job {
            id,
            machine,
            work,
            stage: None,
            stopped: false,
            since: Moment::from_unix(1000),
            number,
            order: None,
        }
    }

    #[test]
    fn of_many_unknown_things_the_same_ones_are_remembered() {
        let stray = |kind, n: usize| Orphan { kind, name: format!("x{n:05}"), detail: String::new() };
        let mut all: Vec<Orphan> = (0..5000).map(|n| stray(OrphanKind::Domain, n)).collect();
        all.push(stray(OrphanKind::Record, 7));
        let named = Orphan { name: "zoe_vm1".to_owned(), ..stray(OrphanKind::Domain, 0) };
        all.push(named.clone());
        let first: Vec<Orphan> = remembered(&all).into_iter().cloned().collect();
        assert_eq!(first.len(), MOST + 1);
        assert!(first.contains(&stray(OrphanKind::Record, 7)), "no kind hides another");
        assert!(first.contains(&named), "its name is in use");
        all.reverse();
        assert_eq!(remembered(&all).into_iter().cloned().collect::<Vec<_>>(), first);
    }

    #[test]
    fn strangers_are_named_and_never_touched() {
        let known = vm("alice", "vm1");
        let other = vm("bob", "vm2");
        let volume = |name: &str, machine| Volume {
            name: name.to_owned(),
            size: Amount::from_mib(5),
            machine,
            open: false,
            snapshot: None,
        };
        let mut told = info();
        told.domains.extend([domain("alice_vm1"), domain("somebody")]);
        told.volumes.extend([
            volume("xen-root-alice_vm1", Some(known.id)),
            volume("root", None),
            volume("xen-root-old", None),
            volume("xen-swap-bob_vm2", Some(other.id)),
        ]);
        told.jobs.extend([job(&known, None), job(&other, None)]);
        told.saved.push(SavedFile { stem: "alice_web".to_owned(), bytes: 7 });
        told.saved.push(SavedFile { stem: "alice_db".to_owned(), bytes: 7 });
        let images = BTreeSet::from(["alice_web".to_owned()]);
        let found = unexpected(&[&known], &images, &told);
        let names: Vec<_> = found.strays.iter().map(|stray| (stray.kind, stray.name.as_str())).collect();
        let id = other.id.to_string();
        assert_eq!(
            names,
            [
                (OrphanKind::Domain, "somebody"),
                (OrphanKind::Volume, "xen-root-old"),
                (OrphanKind::Volume, "xen-swap-bob_vm2"),
                (OrphanKind::Record, id.as_str()),
                (OrphanKind::Image, "alice_db"),
            ]
        );
        assert_eq!(found.ids, BTreeSet::from([other.id]));
    }
}
