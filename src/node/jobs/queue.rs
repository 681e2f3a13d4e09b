//! The queue of deploys: only a limited number run at a time, and the others wait. People take turns:
//! thirty machines for a course don't keep anybody else waiting for all of them.

use std::fs::File;
use std::io;

use crate::model::digest::digest;
use crate::model::names::{ImageTag, SavedImage, VmId};
use crate::system::lock;

use super::{Jobs, Record};

/// A slot for a running deploy, occupied until this is dropped.
#[derive(Debug)]
pub struct Slot {
    _lock: File,
}

/// The turn to prepare an image, held until this is dropped.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Jobs {
    /// Takes the turn to prepare an image, unless another worker has it. The kernel releases it when
    /// the worker ends, however it ends.
    pub fn take_turn(&self, image: &ImageTag) -> io::Result<Option<Turn>> {
        self.take_turn_at(&format!("image-{image}.lock"))
    }

    /// Does the same for a saved image. There are as many locks as a byte has values, so that they don't
    /// pile up. Two images may have the same one: then one waits for the other.
    pub fn take_turn_for_saved(&self, image: &SavedImage) -> io::Result<Option<Turn>> {
        let digest = digest(image.stem().as_bytes());
        self.take_turn_at(&format!("saved-{}.lock", &digest[..2]))
    }

    fn take_turn_at(&self, name: &str) -> io::Result<Option<Turn>> {
        Ok(lock::try_take(&self.state.join(name))?.map(|lock| Turn { _lock: lock }))
    }

    /// Takes one of `most` slots, if one is free. The kernel releases it when the worker ends,
    /// however it ends.
    pub fn take_slot(&self, most: u8) -> io::Result<Option<Slot>> {
        for number in 1..=most {
            if let Some(file) = lock::try_take(&self.state.join(format!("slot-{number}.lock")))? {
                return Ok(Some(Slot { _lock: file }));
            }
        }
        Ok(None)
    }

    /// Returns the position of a deploy in the queue, counted from 1.
    pub fn place(&self, id: VmId) -> io::Result<u32> {
        Ok(place(&self.list()?, id))
    }
}

/// First come those whose owner has the fewest deploys before them, running or waiting; among these, in
/// the order of their ids, which the server generates in ascending order.
fn place(records: &[Record], id: VmId) -> u32 {
    let turn = |record: &Record| {
        let is_before = |other: &&Record| {
            other.owner() == record.owner() && (other.is_deploying() || other.waits() && other.id < record.id)
        };
        (records.iter().filter(is_before).count(), record.id)
    };
    let Some(own) = records.iter().find(|record| record.id == id).map(turn) else { return 1 };
    let before = records.iter().filter(|record| record.waits() && turn(record) < own).count();
    u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::fault::Fault;
    use crate::model::size::{Cpus, GiB, MiB};
    use crate::model::spec::Spec;
    use crate::model::stage::{Order, OrderNumber, Stage};
    use crate::model::wire::DeployOrder;
    use crate::node::jobs::record::tests::terminating;

    #[test]
    fn deploys_are_queued_in_order() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let mut ids: Vec<VmId> = (0..3).map(|_| VmId::generate()).collect();
        ids.sort();
        let put = |id: VmId, edit: fn(&mut Record)| {
            let mut record = Record { id, work: Order::Deploy, ..terminating() };
            edit(&mut record);
            jobs.take(id, Duration::ZERO).unwrap().unwrap().write(&mut record).unwrap();
        };
        for id in &ids {
            put(*id, |_| {});
        }
        assert_eq!(ids.iter().map(|id| jobs.place(*id).unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        put(ids[0], |record| record.stage = Some(Stage::Volumes));
        put(ids[1], |record| record.failed = Some(Fault::PrivilegeRefused));
        assert_eq!(jobs.place(ids[2]).unwrap(), 1, "one is running, one has failed");
    }

    #[test]
    fn there_are_as_many_slots_as_configured() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let first = jobs.take_slot(2).unwrap();
        let second = jobs.take_slot(2).unwrap();
        assert!(first.is_some() && second.is_some());
        assert!(jobs.take_slot(2).unwrap().is_none());
        drop(first);
        assert!(jobs.take_slot(2).unwrap().is_some());
    }

    #[test]
    fn one_worker_at_a_time_prepares_an_image() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let tag: ImageTag = "base".parse().unwrap();
        let saved = |name: &str| SavedImage { owner: "alice".parse().unwrap(), name: name.parse().unwrap() };
        let image = jobs.take_turn(&tag).unwrap();
        assert!(image.is_some() && jobs.take_turn(&tag).unwrap().is_none());
        let base = jobs.take_turn_for_saved(&saved("base")).unwrap();
        assert!(base.is_some() && jobs.take_turn_for_saved(&saved("base")).unwrap().is_none());
        assert!(jobs.take_turn_for_saved(&saved("other")).unwrap().is_some());
        drop(base);
        assert!(jobs.take_turn_for_saved(&saved("base")).unwrap().is_some());
        // However many there are.
        for n in 0..600 {
            jobs.take_turn_for_saved(&saved(&n.to_string())).unwrap().unwrap();
        }
        let locks = std::fs::read_dir(state.path()).unwrap();
        let is_saved = |name: &String| name.starts_with("saved-");
        let names = locks.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!((100..=256).contains(&names.filter(is_saved).count()));
    }

    #[test]
    fn people_take_turns() {
        let mut ids: Vec<VmId> = (0..7).map(|_| VmId::generate()).collect();
        ids.sort();
        // Alice has one that runs and ordered three more before the others came.
        let owners = ["alice", "alice", "alice", "alice", "bob", "bob", "carol"];
        let record = |(id, owner): (&VmId, &str)| {
            let order = DeployOrder { user: owner.parse().unwrap(), ..order(*id) };
            Record { id: *id, work: Order::Deploy, order: Some(order), ..terminating() }
        };
        let mut records: Vec<Record> = ids.iter().zip(owners).map(record).collect();
        records[0].stage = Some(Stage::Unpack);
        let places =
            |records: &[Record]| -> Vec<u32> { ids[1..].iter().map(|id| place(records, *id)).collect() };
        //                                 alice    bob   carol
        assert_eq!(places(&records), [3, 5, 6, 1, 4, 2]);
        // Bob's first one runs, and carol's has ended.
        records[4].stage = Some(Stage::Volumes);
        records[6].done = true;
        let now = places(&records);
        assert_eq!((&now[..3], now[4]), (&[1, 3, 4][..], 2));
        records[0].done = true;
        assert_eq!(places(&records)[..3], [1, 2, 4], "alice's next ones moved up");
    }

    fn order(id: VmId) -> DeployOrder {
        let (memory, disk) = (MiB::new(64).unwrap(), GiB::new(1).unwrap());
        let image = "tiny".parse().unwrap();
        DeployOrder {
            id,
            number: OrderNumber::default(),
            user: "alice".parse().unwrap(),
            physical_host: "node1".parse().unwrap(),
            virtual_host: "vm1".parse().unwrap(),
            spec: Spec { image, memory, cpus: Cpus::default(), disk, saved: None, snapshot: None },
        }
    }
}
