//! Snapshots in a thin pool: the volumes `vgrid.snapshot.ID.NAME`, read-only and not active, with their
//! facts in tags.
//!
//! A disk is gone back to in three steps, because LVM has no program that exchanges two volumes: a copy
//! of the snapshot, or of a prepared disk, is made, the disk is removed, the copy is renamed. Whoever finds a
//! copy beside the disk removes the copy; whoever finds it alone gives it the disk's name.

use super::{Contents, Row, Thin};
use crate::model::names::{SnapshotName, VmId};
use crate::model::size::Amount;
use crate::model::wire::Volume;
use crate::node::Machine;
use crate::node::storage::lvm::{self, HOLDS, TAKEN, tag};
use crate::node::storage::snapshots::{Complete, Snapshots};
use crate::node::storage::{Device, Disk, Storage as _, StorageError};
use crate::system::clock;

/// Finds a machine's volume of that name.
fn find<'a>(contents: &'a Contents, machine: &Machine, name: &str) -> Option<&'a Row> {
    contents.find(name).filter(|row| row.volume.machine == Some(machine.id))
}

impl Thin<'_> {
    fn snapshot_of(self, id: VmId, name: &SnapshotName) -> Result<Row, StorageError> {
        let name = lvm::snapshot(id, name);
        let volumes = self.with_room(Amount::default())?.volumes;
        let is_it = |row: &Row| row.volume.name == name && row.volume.machine == Some(id);
        volumes.into_iter().find(is_it).ok_or(StorageError::VolumeMissing)
    }

    /// Replaces a machine's root disk by a copy of a volume, once that is complete. It keeps its size.
    pub(super) fn replace_by(
        self,
        machine: &Machine,
        original: &Row,
        contents: &Contents,
        complete: &Complete<'_>,
    ) -> Result<(), StorageError> {
        let (root, copy) = (self.name(machine, Disk::Root), lvm::copy_of(&machine.name));
        let size = find(contents, machine, &root).ok_or(StorageError::VolumeMissing)?.volume.size;
        let is_larger = original.volume.size < size;
        let make = || -> Result<(), StorageError> {
            self.copy(&copy, &original.volume.name, &[&tag(machine.id)])?;
            if is_larger {
                self.lvm.extend(&copy, size)?;
            }
            complete(&self.device(&copy), is_larger)
        };
        if let Err(error) = make() {
            self.discard(&copy)?;
            return Err(error);
        }
        self.swap_in(&copy, &root)
    }

    fn swap_in(self, copy: &str, root: &str) -> Result<(), StorageError> {
        self.discard(root)?;
        self.lvm.run("lvrename", &[self.group.as_str(), copy, root]).map(drop)
    }
}

impl Snapshots for Thin<'_> {
    fn take(&self, machine: &Machine, name: &SnapshotName, reserved: Amount) -> Result<(), StorageError> {
        let contents = self.with_room(Amount::default())?;
        let root = self.name(machine, Disk::Root);
        let disk = find(&contents, machine, &root).ok_or(StorageError::VolumeMissing)?;
        if !disk.is_in(self.pool) {
            return Err(StorageError::NoSnapshots(
                "it is no thin volume: it was made before this host had a pool",
            ));
        }
        let snapshot = lvm::snapshot(machine.id, name);
        if contents.find(&snapshot).is_some() {
            return Err(StorageError::VolumeExists);
        }
        let holds = disk.mapped();
        contents.space.must_hold(holds, reserved)?;
        let tags =
            [tag(machine.id), format!("{TAKEN}{}", clock::now().unix()), format!("{HOLDS}{}", holds.mib())];
        let origin = self.displayed(&root);
        // Without -kn, it is not activated.
        let mut args = vec!["-y", "-s", "-pr", "-n", &snapshot];
        args.extend(tags.iter().flat_map(|tag| ["--addtag", tag]));
        args.push(&origin);
        self.lvcreate(&args)
    }

    fn roll_back(&self, machine: &Machine, name: &SnapshotName) -> Result<(), StorageError> {
        self.finish(machine)?;
        let contents = self.with_room(Amount::default())?;
        let snapshot = lvm::snapshot(machine.id, name);
        let snapshot = find(&contents, machine, &snapshot).ok_or(StorageError::VolumeMissing)?;
        self.replace_by(machine, snapshot, &contents, &|_, _| Ok(()))
    }

    fn delete(&self, machine: &Machine, name: &SnapshotName) -> Result<(), StorageError> {
        let snapshot = lvm::snapshot(machine.id, name);
        match find(&self.contents()?, machine, &snapshot) {
            Some(_) => self.discard(&snapshot),
            None => Ok(()),
        }
    }

    fn lend(&self, to: &Machine, of: VmId, name: &SnapshotName) -> Result<Device, StorageError> {
        let (snapshot, copy) = (self.snapshot_of(of, name)?, lvm::copy_of(&to.name));
        // Left by a helper that was killed.
        self.discard(&copy)?;
        self.copy(&copy, &snapshot.volume.name, &[&tag(to.id)])?;
        Ok(Device { path: self.device(&copy), is_loop: false })
    }

    fn take_back(&self, to: &Machine) -> Result<(), StorageError> {
        self.discard(&lvm::copy_of(&to.name))
    }

    fn clone_to(&self, machine: &Machine, of: VmId, name: &SnapshotName) -> Result<(), StorageError> {
        let (snapshot, root) = (self.snapshot_of(of, name)?, self.name(machine, Disk::Root));
        let contents = self.contents()?;
        let size = find(&contents, machine, &root).ok_or(StorageError::VolumeMissing)?.volume.size;
        if snapshot.volume.size > size {
            return Err(StorageError::NoSpace);
        }
        self.discard(&root)?;
        self.copy(&root, &snapshot.volume.name, &[&tag(machine.id)])?;
        if snapshot.volume.size < size { self.lvm.extend(&root, size) } else { Ok(()) }
    }

    fn unfinished(&self, volumes: &[Volume]) -> Vec<Machine> {
        let machine =
            |volume: &Volume| Some(Machine { id: volume.machine?, name: lvm::is_copy_for(&volume.name)? });
        volumes.iter().filter_map(machine).collect()
    }

    fn finish(&self, machine: &Machine) -> Result<(), StorageError> {
        let contents = self.contents()?;
        let (root, copy) = (self.name(machine, Disk::Root), lvm::copy_of(&machine.name));
        if find(&contents, machine, &copy).is_none() {
            return Ok(());
        }
        match contents.find(&root) {
            Some(_) => self.discard(&copy),
            None => self.swap_in(&copy, &root),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::names::{ThinPool, VolumeGroup};
    use crate::model::wire::Snapshot;

    const JSON: &str = include_str!("../../../../tests/data/vgs-thin-snapshots.json");

    #[test]
    fn snapshots_are_read_from_names_and_tags() {
        let there = super::super::parse(JSON.as_bytes(), &"pool".parse().unwrap()).unwrap().unwrap();
        let id = "01a220ed-87ad-765a-bfc7-ba4544cfac8a".parse().unwrap();
        let machine = Machine { id, name: "alice_vm2".parse().unwrap() };
        let name = lvm::snapshot(id, &"running".parse().unwrap());
        let row = find(&there, &machine, &name).unwrap();
        let (name, taken) = ("running".parse().unwrap(), Moment::from_unix(1_795_848_847));
        assert_eq!(row.volume.snapshot, Some(Snapshot { name, taken, holds: Amount::from_mib(48) }));
        assert!(lvm::is_made_for(&machine, &row.volume));
        let other = Machine { id: VmId::generate(), ..machine.clone() };
        assert!(!lvm::is_made_for(&other, &row.volume) && find(&there, &other, &row.volume.name).is_none());
        let made = there.volumes.iter().filter(|row| lvm::is_made_for(&machine, &row.volume));
        assert_eq!(made.count(), 3, "its disks, and its snapshot");
    }

    #[test]
    fn a_copy_is_found_by_its_name_and_its_mark() {
        let machine = Machine { id: VmId::generate(), name: "alice_vm1".parse().unwrap() };
        let volume = |name: &str, machine| {
            let size = Amount::from_mib(1);
            Volume { name: name.to_owned(), size, machine, open: false, snapshot: None }
        };
        let thin: (VolumeGroup, ThinPool) = ("vg1".parse().unwrap(), "pool".parse().unwrap());
        let listing = lvm::Listing::default();
        let thin = Thin::new(&thin.0, &thin.1, &listing);
        let all = [
            volume("xen-root-alice_vm1", Some(machine.id)),
            volume("vgrid.back.alice_vm1", Some(machine.id)),
            volume("vgrid.back.bob_vm2", None),
            volume("vgrid.back.no", Some(machine.id)),
        ];
        assert!(lvm::is_made_for(&machine, &all[1]));
        assert_eq!(thin.unfinished(&all), [machine]);
    }
}
