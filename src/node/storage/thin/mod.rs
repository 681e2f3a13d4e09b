//! Disks as volumes of an LVM thin pool (lvmthin(7)): they take space as they are written, and a new
//! machine's disk is a snapshot of its image's prepared disk, there at once.
//!
//! Volumes of a thin pool are named and tagged as in [`lvm`](super::lvm), so machines that were made
//! before the host got its pool stay what they are. Space is promised as a whole: a disk counts with
//! its full size, and a prepared one with what it holds, so the pool can't run full by what machines
//! write.
//!
//! Facts, observed with LVM 2.03.16: removing the origin of a thin snapshot leaves the snapshot as it
//! is; without `-kn`, a snapshot is not activated; a snapshot of a read-only volume is writable; each
//! volume that is made brings a warning, on standard error, that the pool does not grow by itself.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

mod prepared;
mod snapshots;

use super::lvm::{self, GroupRow, Listing, Lvm, UNUSED, VolumeRow, tag};
use super::prepared::Prepared;
use super::snapshots::Snapshots;
use super::{Device, Disk, Space, Standing, Storage, StorageError, Survey};
use crate::model::lease::Moment;
use crate::model::names::{ThinPool, VolumeGroup};
use crate::model::size::Amount;
use crate::model::stage::Percent;
use crate::model::wire::{PoolFill, Volume};
use crate::node::Machine;

/// The share of the metadata that may be used, in percent, above which no disk is made: a pool without
/// space for metadata has to be repaired.
const METADATA_LIMIT: f64 = 90.0;

/// What LVM wants to remain free of a pool's metadata, or else it makes no volume: 4 MiB, or 25% where
/// that is less (`thin_pool_metadata_min_threshold` in LVM's thin_manip.c; observed with 4 MiB of
/// metadata, of which 75.39% were taken).
const METADATA_RESERVE: f64 = 4.0;
const METADATA_RESERVE_PERCENT: f64 = 25.0;

/// What is wrong with a thin pool. `Display` follows the pool's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PoolFault {
    /// There is none of that name.
    #[error("is missing")]
    Missing,
    /// A machine could read what others have written.
    #[error("does not zero new blocks, so machines could read what others have written")]
    NoZeroes,
    /// It is about to break.
    #[error("has too little space for metadata")]
    NoMetadata,
}

/// The thin pool for the machines.
#[derive(Debug, Clone, Copy)]
pub struct Thin<'a> {
    lvm: Lvm<'a>,
    group: &'a VolumeGroup,
    pool: &'a ThinPool,
}

/// A volume of the pool's group, or the pool itself.
#[derive(Debug)]
struct Row {
    volume: Volume,
    /// See lvs(8).
    attributes: String,
    /// The pool that it is in, if any.
    pool: String,
    /// The volume that it began as a copy of, if that is still there.
    origin: String,
    /// How much of its space is taken, in percent; all of it, if it is not active.
    data: f64,
    /// How much it holds, and since when, if it is a prepared disk or a snapshot.
    holds: Option<Amount>,
    taken: Option<Moment>,
    /// How much of a pool's metadata is taken, in percent.
    metadata: f64,
    /// How much of it may be taken, in percent.
    metadata_limit: f64,
}

/// A pool and all that is in its group.
#[derive(Debug)]
struct Contents {
    space: Space,
    pool: Row,
    volumes: Vec<Row>,
}

#[derive(Deserialize)]
struct ReportedRow {
    #[serde(flatten)]
    group: GroupRow,
    #[serde(flatten)]
    volume: VolumeRow,
    pool_lv: String,
    data_percent: String,
    metadata_percent: String,
    #[serde(default)]
    lv_metadata_size: String,
    #[serde(default)]
    origin: String,
}

/// A volume that is not active has no percentages.
fn percent(text: &str, unknown: f64) -> f64 {
    text.trim().parse().unwrap_or(unknown)
}

/// Returns how much of so much metadata may be taken, in percent.
fn metadata_limit(size: &str) -> f64 {
    let mib: Option<f64> = size.trim().strip_suffix('m').and_then(|size| size.parse().ok());
    let reserve = mib.map_or(METADATA_RESERVE_PERCENT, |mib| 100.0 * METADATA_RESERVE / mib);
    100.0 - reserve.min(METADATA_RESERVE_PERCENT)
}

/// Rounds a percentage up: only an empty pool has none taken.
// It is from 0 to 100 by then.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(percent: f64) -> Percent {
    Percent::of(percent.ceil().clamp(0.0, 100.0) as u64, 100)
}

impl Row {
    fn new(reported: ReportedRow) -> Result<Self, StorageError> {
        Ok(Self {
            holds: reported.volume.holds(),
            taken: reported.volume.taken(),
            attributes: reported.volume.attributes.clone(),
            volume: reported.volume.volume()?,
            pool: reported.pool_lv,
            origin: reported.origin,
            data: percent(&reported.data_percent, 100.0),
            metadata: percent(&reported.metadata_percent, 0.0),
            metadata_limit: metadata_limit(&reported.lv_metadata_size),
        })
    }

    /// Returns whether new blocks are zeroed. lvs(8): the eighth attribute is then `z`.
    fn zeroes(&self) -> bool {
        self.attributes.as_bytes().get(7) == Some(&b'z')
    }

    fn is_pool(&self, name: &ThinPool) -> bool {
        self.volume.name == name.as_str() && self.attributes.starts_with('t')
    }

    /// Returns how much is taken of the metadata that may be taken, in percent.
    fn metadata_taken(&self) -> f64 {
        100.0 * self.metadata / self.metadata_limit
    }

    fn lacks_metadata(&self) -> bool {
        self.metadata_taken() > METADATA_LIMIT
    }

    fn is_in(&self, pool: &ThinPool) -> bool {
        self.pool == pool.as_str()
    }

    /// The space that has been written to, rounded up.
    // A percentage of a size, both far from the limits of either type.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn mapped(&self) -> Amount {
        Amount::from_mib((self.volume.size.mib() as f64 * self.data / 100.0).ceil() as u64)
    }
}

/// Parses a report about a group and its volumes: one row per volume, so `None` if the group has none, or
/// is missing.
fn parse(json: &[u8], pool: &ThinPool) -> Result<Option<Contents>, StorageError> {
    let rows: Vec<ReportedRow> = lvm::rows(json)?;
    let Some(group) = rows.first().map(|row| row.group.space()).transpose()? else { return Ok(None) };
    let rows = rows.into_iter().map(Row::new).collect::<Result<_, _>>()?;
    Ok(Contents::new(group, rows, pool))
}

impl Contents {
    /// Arranges the rows of a group; `None` if the pool is not among them.
    fn new(group: Space, rows: Vec<Row>, name: &ThinPool) -> Option<Self> {
        let (pools, volumes): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.is_pool(name));
        let pool = pools.into_iter().next()?;
        let promised = |row: &Row| {
            let is_at_rest = prepared::is_at_rest(&row.volume.name) || row.volume.snapshot.is_some();
            if is_at_rest { row.holds.unwrap_or(row.mapped()) } else { row.volume.size }
        };
        let promised: Amount = volumes.iter().filter(|row| row.is_in(name)).map(promised).sum();
        let size = pool.volume.size;
        let fill = Some(PoolFill { data: whole(pool.data), metadata: whole(pool.metadata_taken()) });
        Some(Self { space: Space { size, free: size.minus(promised), fill, ..group }, pool, volumes })
    }

    fn find(&self, name: &str) -> Option<&Row> {
        self.volumes.iter().find(|row| row.volume.name == name)
    }
}

impl<'a> Thin<'a> {
    /// Refers to a pool, which need not exist.
    pub fn new(group: &'a VolumeGroup, pool: &'a ThinPool, listing: &'a Listing) -> Self {
        Self { lvm: Lvm::new(group, listing), group, pool }
    }

    /// Checks that disks can be made.
    pub fn ready(self) -> Result<(), StorageError> {
        self.with_room(Amount::default()).map(drop)
    }

    fn contents(self) -> Result<Contents, StorageError> {
        parse(&self.lvm.list()?, self.pool)?.ok_or_else(|| self.fault(PoolFault::Missing))
    }

    /// Returns the contents if a disk of that size can be made.
    fn with_room(self, size: Amount) -> Result<Contents, StorageError> {
        let contents = self.contents()?;
        if !contents.pool.zeroes() {
            return Err(self.fault(PoolFault::NoZeroes));
        }
        if contents.pool.lacks_metadata() {
            return Err(self.fault(PoolFault::NoMetadata));
        }
        if contents.space.rounded(size) > contents.space.free {
            return Err(StorageError::NoSpace);
        }
        Ok(contents)
    }

    fn fault(self, why: PoolFault) -> StorageError {
        StorageError::Pool { name: self.displayed(self.pool.as_str()), why }
    }

    fn device(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/dev/{}/{name}", self.group))
    }

    fn make_empty(self, machine: &Machine, disk: Disk, size: Amount) -> Result<(), StorageError> {
        self.make(&self.name(machine, disk), size, &[&tag(machine.id), UNUSED])
    }

    /// Makes an empty volume, writable and active, with these tags.
    fn make(self, name: &str, size: Amount, tags: &[&str]) -> Result<(), StorageError> {
        let size = format!("{}m", size.mib());
        let tags = tags.iter().flat_map(|tag| ["--addtag", tag]);
        let args = ["-y", "-V", &size, "--thinpool", self.pool.as_str(), "-n", name];
        let args: Vec<_> = args.into_iter().chain(tags).chain([self.group.as_str()]).collect();
        self.lvcreate(&args)
    }

    /// Makes a volume. LVM says of data and of metadata alike that there is too little space.
    fn lvcreate(self, args: &[&str]) -> Result<(), StorageError> {
        let created = self.lvm.run("lvcreate", args).map(drop);
        if created == Err(StorageError::NoSpace) {
            self.look_again();
            if self.contents()?.pool.lacks_metadata() {
                return Err(self.fault(PoolFault::NoMetadata));
            }
        }
        created
    }

    /// Makes a volume that begins as a copy of another, writable and active. `tags` are its own.
    fn copy(self, name: &str, origin: &str, tags: &[&str]) -> Result<(), StorageError> {
        let origin = self.displayed(origin);
        let tags = tags.iter().flat_map(|tag| ["--addtag", tag]);
        let args: Vec<_> =
            ["-y", "-kn", "-s", "-n", name].into_iter().chain(tags).chain([&*origin]).collect();
        self.lvcreate(&args)
    }

    fn discard(self, name: &str) -> Result<(), StorageError> {
        match self.lvm.remove(&[name]) {
            Err(StorageError::VolumeMissing) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Storage for Thin<'_> {
    fn survey(&self) -> Result<Survey, StorageError> {
        let contents = self.contents()?;
        let prepared = Some(prepared::all(&contents).collect());
        let volumes = contents.volumes.into_iter().map(|row| row.volume);
        let volumes = volumes.filter(|volume| !prepared::is_one(&volume.name)).collect();
        Ok(Survey { space: contents.space, volumes, prepared })
    }

    fn space(&self) -> Result<Space, StorageError> {
        Ok(self.contents()?.space)
    }

    /// The pool is full of data, or of metadata.
    fn is_full(&self) -> bool {
        self.look_again();
        self.contents().is_ok_and(|contents| {
            [contents.pool.data, contents.pool.metadata].iter().any(|used| *used >= 99.9)
        })
    }

    fn volumes(&self) -> Result<Vec<Volume>, StorageError> {
        let mut volumes = self.lvm.volumes()?;
        volumes.retain(|volume| !prepared::is_one(&volume.name));
        Ok(volumes)
    }

    fn name(&self, machine: &Machine, disk: Disk) -> String {
        self.lvm.name(machine, disk)
    }

    fn is_made_for(&self, machine: &Machine, volume: &Volume) -> bool {
        self.lvm.is_made_for(machine, volume)
    }

    fn displayed(&self, name: &str) -> String {
        self.lvm.displayed(name)
    }

    fn create(&self, machine: &Machine, disks: &[(Disk, Amount)]) -> Result<(), StorageError> {
        self.with_room(disks.iter().map(|(_, size)| *size).sum())?;
        disks.iter().try_for_each(|(disk, size)| self.make_empty(machine, *disk, *size))
    }

    /// A thin volume has no blocks where nothing has been written, so what is new reads as zeros.
    fn grow(
        &self,
        machine: &Machine,
        disk: Disk,
        size: Amount,
        tell: &mut dyn FnMut(Percent) -> io::Result<()>,
    ) -> Result<(), StorageError> {
        let (contents, name) = (self.contents()?, self.name(machine, disk));
        let row = contents.find(&name).ok_or(StorageError::VolumeMissing)?;
        if !row.is_in(self.pool) {
            return self.lvm.grow(machine, disk, size, tell);
        }
        if row.volume.size >= size {
            return Ok(());
        }
        self.with_room(size.minus(row.volume.size))?;
        self.lvm.extend(&name, size)
    }

    fn path(&self, machine: &Machine, disk: Disk) -> PathBuf {
        self.lvm.path(machine, disk)
    }

    fn is_block(&self) -> bool {
        true
    }

    fn attach(&self, machine: &Machine, disk: Disk) -> Result<Device, StorageError> {
        self.lvm.attach(machine, disk)
    }

    fn attach_at(&self, path: &Path) -> Result<Device, StorageError> {
        self.lvm.attach_at(path)
    }

    fn release(&self, machine: &Machine) {
        self.lvm.release(machine);
    }

    fn unused(&self) -> Result<Vec<Volume>, StorageError> {
        self.lvm.unused()
    }

    fn look_again(&self) {
        self.lvm.look_again();
    }

    fn mark_used(&self, names: &[&str]) -> Result<(), StorageError> {
        self.lvm.mark_used(names)
    }

    fn standing(&self, name: &str) -> Result<Option<Standing>, StorageError> {
        self.lvm.standing(name)
    }

    fn remove(&self, names: &[&str]) -> Result<(), StorageError> {
        self.lvm.remove(names)
    }

    fn clear(&self, machine: &Machine) -> Result<(), StorageError> {
        self.lvm.clear(machine)
    }

    fn prepared(&self) -> Option<Box<dyn Prepared + '_>> {
        Some(Box::new(*self))
    }

    fn snapshots(&self) -> Result<Box<dyn Snapshots + '_>, StorageError> {
        Ok(Box::new(*self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = include_str!("../../../../tests/data/vgs-thin.json");
    const FULL: &str = include_str!("../../../../tests/data/vgs-thin-full.json");
    const CLONE: &str = include_str!("../../../../tests/data/vgs-all.json");

    fn contents(json: &str, pool: &str) -> Option<Contents> {
        parse(json.as_bytes(), &pool.parse().unwrap()).unwrap()
    }

    #[test]
    fn disks_are_promised_all_their_space_and_prepared_ones_what_they_hold() {
        let there = contents(JSON, "pool").unwrap();
        assert_eq!((there.space.size.mib(), there.space.extent.mib()), (400, 4));
        // A machine's disk of 600 MiB is more than the pool has.
        assert_eq!(there.space.free, Amount::default());
        let json = JSON.replace("400.00m", "1400.00m");
        assert_eq!(contents(&json, "pool").unwrap().space.free.mib(), 1400 - 600 - 16 - 300);
        let tagged = json
            .replace("\"Vri---tz--\", \"lv_tags\":\"\"", "\"Vri---tz--\", \"lv_tags\":\"vgrid.holds.57\"");
        assert_ne!(tagged, json);
        assert_eq!(contents(&tagged, "pool").unwrap().space.free.mib(), 1400 - 600 - 16 - 57);

        let there = contents(&tagged, "pool").unwrap();
        assert_eq!(there.find("vgrid.image.tiny.0123456789abcdef").unwrap().volume.size.mib(), 300);
        let root = there.find("xen-root-alice_vm1").unwrap();
        assert!(root.is_in(&"pool".parse().unwrap()) && !root.is_in(&"other".parse().unwrap()));
        // 9.49% of 600 MiB.
        assert_eq!((root.mapped().mib(), root.volume.machine.is_some()), (57, true));
        assert!(there.pool.zeroes());
        let fill = there.space.fill.unwrap();
        assert_eq!((fill.data.get(), fill.metadata.get()), (15, 16), "14.47%, 11.91% of the 75% that may be");
    }

    #[test]
    fn a_disk_that_is_being_prepared_is_promised_all_its_space() {
        let there = |name: &str| {
            let json = JSON.replace("400.00m", "1400.00m").replace("vgrid.image.tiny.0123456789abcdef", name);
            contents(&json, "pool").unwrap()
        };
        let unfinished = there("vgrid.ahead");
        let keys = |contents: &Contents| -> Vec<String> {
            prepared::all(contents).map(|kept| kept.key.to_string()).collect()
        };
        assert!(prepared::is_one("vgrid.ahead") && keys(&unfinished).is_empty());
        assert_eq!(unfinished.space.free.mib(), 1400 - 600 - 16 - 300);
        let kept = there("vgrid.image.tiny.0123456789abcdef");
        assert_eq!(keys(&kept), ["tiny.0123456789abcdef"]);
        let saved = there("vgrid.saved.tiny.0123456789abcdef");
        assert_eq!(keys(&saved), ["tiny.0123456789abcdef.saved"]);
        assert_eq!(saved.space.free, kept.space.free, "it is promised what it holds, too");
    }

    #[test]
    fn a_prepared_disk_knows_when_it_was_kept() {
        let tags = "\"lv_tags\":\"vgrid.holds.57,vgrid.taken.1700000000\"";
        let json = JSON.replace("\"Vri---tz--\", \"lv_tags\":\"\"", &format!("\"Vri---tz--\", {tags}"));
        let made = |json: &str| {
            let kept: Vec<_> = prepared::all(&contents(json, "pool").unwrap()).collect();
            kept.iter().map(|kept| (kept.holds.mib(), kept.made)).collect::<Vec<_>>()
        };
        assert_eq!(made(&json), [(57, Some(Moment::from_unix(1_700_000_000)))]);
        assert_eq!(made(JSON), [(300, None)]);
    }

    #[test]
    fn a_clone_knows_what_it_began_as() {
        let there = contents(CLONE, "pool").unwrap();
        let origin = |name: &str| there.find(name).unwrap().origin.as_str();
        assert_eq!(origin("xen-root-alice_vm2"), "vgrid.image.tiny.414157ea4590f4ef");
        assert_eq!((origin("xen-root-alice_vm1"), origin("xen-swap-alice_vm2")), ("", ""));
    }

    #[test]
    fn only_a_pool_is_one() {
        for (json, pool) in [(JSON, "nopool"), (JSON, "other"), (JSON, "xen-swap-alice_vm1")] {
            assert!(contents(json, pool).is_none(), "{pool}");
        }
        let none = include_str!("../../../../tests/data/vgs-missing.json");
        assert!(contents(none, "pool").is_none());
        assert!(parse(b"no JSON", &"pool".parse().unwrap()).is_err());
    }

    #[test]
    fn a_full_pool_and_one_that_does_not_zero_blocks_are_seen() {
        let there = contents(FULL, "pool").unwrap();
        assert!(there.pool.data >= 100.0 && !there.pool.lacks_metadata());
        assert!(!there.pool.zeroes());
    }

    #[test]
    fn a_pool_lacks_metadata_before_lvm_refuses_to_make_volumes() {
        for (size, limit) in
            [("", 75.0), ("2.00m", 75.0), ("4.00m", 75.0), ("16.00m", 75.0), ("32.00m", 87.5)]
        {
            assert!((metadata_limit(size) - limit).abs() < f64::EPSILON, "{size}");
        }
        let with = |percent: &str| contents(&JSON.replace("11.91", percent), "pool").unwrap();
        assert!(!with("67.49").pool.lacks_metadata() && with("67.51").pool.lacks_metadata());
        assert_eq!(with("75.39").space.fill.unwrap().metadata.get(), 100);
    }
}
