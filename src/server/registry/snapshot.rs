//! Snapshots of machines' disks. Hosts have them; the registry repeats what each last said.

use crate::model::lease::Moment;
use crate::model::names::VmId;
use crate::model::size::Amount;
use crate::model::wire::Snapshot;
use crate::server::registry::user::Owner;
use crate::server::registry::{Cells, Reader, RegistryError, Writer, all};

fn read(mut cells: Cells<'_>) -> Result<Snapshot, RegistryError> {
    Ok(Snapshot {
        name: cells.parsed()?,
        taken: Moment::from_unix(cells.get()?),
        holds: cells.number().map(Amount::from_mib)?,
    })
}

impl Reader<'_> {
    /// Returns a machine's snapshots, newest first.
    pub fn snapshots(&self, vm: VmId) -> Result<Vec<Snapshot>, RegistryError> {
        const SQL: &str =
            "SELECT name, taken, holds_mib FROM snapshot WHERE vm = ?1 ORDER BY taken DESC, name";
        all(self.connection, SQL, [vm.to_string()], read)
    }

    /// Returns how many snapshots an owner's live machines have.
    pub fn snapshot_count(&self, owner: &Owner) -> Result<u32, RegistryError> {
        const SQL: &str = "SELECT count(*) FROM snapshot JOIN vm ON snapshot.vm = vm.id
                           WHERE vm.owner = ?1 AND vm.state <> 'notDeployed'";
        Ok(all(self.connection, SQL, [owner.as_str()], |mut cells| cells.number())?.pop().unwrap_or_default())
    }
}

impl Writer<'_> {
    /// Replaces what is known of a machine's snapshots.
    pub fn keep_snapshots(&self, vm: VmId, snapshots: &[Snapshot]) -> Result<(), RegistryError> {
        let mut sorted = snapshots.to_vec();
        sorted.sort_by(|one, other| other.taken.cmp(&one.taken).then_with(|| one.name.cmp(&other.name)));
        if self.reader().snapshots(vm)? == sorted {
            return Ok(());
        }
        self.connection.execute("DELETE FROM snapshot WHERE vm = ?1", [vm.to_string()])?;
        for Snapshot { name, taken, holds } in sorted {
            self.connection.execute(
                "INSERT OR REPLACE INTO snapshot (vm, name, taken, holds_mib) VALUES (?1, ?2, ?3, ?4)",
                (
                    vm.to_string(),
                    name.as_str(),
                    taken.unix(),
                    // SQLite's integers are signed; no disk is large enough for that to matter.
                    i64::try_from(holds.mib()).unwrap_or(i64::MAX),
                ),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;
    use crate::server::registry::vm::tests::entered;

    #[test]
    fn what_a_host_says_last_is_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let (vm, other) = (
            entered(&mut registry, "alice", "node1", "vm1"),
            entered(&mut registry, "alice", "node1", "vm2"),
        );
        let snapshot = |name: &str, taken| Snapshot {
            name: name.parse().unwrap(),
            taken: Moment::from_unix(taken),
            holds: Amount::from_mib(57),
        };
        let keep = |registry: &mut Registry, vm: VmId, all: &[Snapshot]| {
            registry.write(|writer| writer.keep_snapshots(vm, all)).unwrap();
        };
        let count =
            |registry: &mut Registry| registry.read(|reader| reader.snapshot_count(&vm.owner)).unwrap();
        let (old, new) = (snapshot("old", 1), snapshot("new", 2));
        keep(&mut registry, vm.id, &[old.clone(), new.clone()]);
        keep(&mut registry, other.id, std::slice::from_ref(&old));
        assert_eq!(registry.read(|reader| reader.snapshots(vm.id)).unwrap(), [new.clone(), old.clone()]);
        assert_eq!(count(&mut registry), 3);
        keep(&mut registry, vm.id, std::slice::from_ref(&new));
        assert_eq!(registry.read(|reader| reader.snapshots(vm.id)).unwrap(), [new]);
        assert_eq!(registry.read(|reader| reader.snapshots(other.id)).unwrap(), [old]);
        keep(&mut registry, vm.id, &[]);
        assert_eq!(count(&mut registry), 1);
    }
}
