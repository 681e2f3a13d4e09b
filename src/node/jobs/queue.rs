//! The queue of deploys: only a limited number run at a time, and the others wait in the order of
//! their ids.

use std::fs::File;
use std::io;

use crate::model::names::{ImageTag, VmId};
use crate::system::lock;

use super::Jobs;

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
    /// Takes the turn to prepare an image, unless another deploy has it. The kernel releases it when
    /// the worker ends, however it ends.
    pub fn take_turn(&self, image: &ImageTag) -> io::Result<Option<Turn>> {
        let lock = lock::try_take(&self.state.join(format!("image-{image}.lock")))?;
        Ok(lock.map(|lock| Turn { _lock: lock }))
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

    /// Returns the position of a deploy in the queue, counted from 1. The server generates ids in
    /// ascending order.
    pub fn place(&self, id: VmId) -> io::Result<u32> {
        let before = self.list()?.iter().filter(|record| record.waits() && record.id < id).count();
        Ok(u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::fault::Fault;
    use crate::model::stage::{Order, Stage};
    use crate::node::jobs::Record;
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
}
