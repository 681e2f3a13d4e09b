//! LVM: running its programs and parsing their output. The parsers are pure and tested on captured
//! output.
//!
//! Relevant facts about LVM, observed with LVM 2.03.16: every refusal has exit status 5, so the
//! text must be examined; if the allocated space begins with an old file system, `lvcreate`
//! prompts, and fails without a terminal, hence `-y -W y`; `--units m` is MiB, with two decimals;
//! for a missing group, the report is still printed, but empty.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::snapshots::Snapshots;
use super::{Device, Disk, Space, Standing, Storage, StorageError, Survey, grow};
use crate::model::lease::Moment;
use crate::model::names::{MachineName, ROOT_PREFIX, SWAP_PREFIX, SnapshotName, VmId, VolumeGroup};
use crate::model::size::Amount;
use crate::model::stage::Percent;
use crate::model::wire::{Snapshot, Volume};
use crate::node::Machine;
use crate::system::exec::{self, ExecError, ProgramOutput, Run};

/// The time limit of each LVM program. They wait for each other's locks.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns which disk of its machine a volume of that name is.
pub fn disk(volume: &str) -> Option<Disk> {
    [(ROOT_PREFIX, Disk::Root), (SWAP_PREFIX, Disk::Swap)]
        .into_iter()
        .find_map(|(prefix, disk)| volume.starts_with(prefix).then_some(disk))
}

/// The prefix of the tags on machines' volumes.
const TAG: &str = "vgrid-";

/// Returns the tag that marks volumes as vGrid's and as belonging to this machine.
pub fn tag(id: VmId) -> String {
    format!("{TAG}{id}")
}

/// The second tag of a volume from which no machine has been started yet. Only vGrid has written to
/// such a volume, so only such a volume is mounted writable.
pub const UNUSED: &str = "vgrid.new";

/// The beginning of the tag of a volume that is being enlarged; the rest is its size before, in bytes.
/// LVM takes the new space as others left it, so from there on it is overwritten with zeros.
const GROWN_FROM: &str = "vgrid.grown-from.";

/// The beginning of the tag of a volume that nothing writes to, a prepared disk or a snapshot, that
/// says when it was made, in seconds since 1970.
pub(super) const TAKEN: &str = "vgrid.taken.";

/// The beginning of the tag of a volume that nothing writes to, a prepared disk or a snapshot, that
/// says how much it holds, in MiB. LVM knows that only of volumes that are active.
pub(super) const HOLDS: &str = "vgrid.holds.";

/// The prefix of the names of snapshots.
const SNAPSHOT: &str = "vgrid.snapshot.";

/// Returns the name of the volume that is a machine's snapshot. It is found by the machine's id, which
/// is in it without its hyphens, because they count twice (see [`SnapshotName`]).
pub(super) fn snapshot(id: VmId, name: &SnapshotName) -> String {
    format!("{SNAPSHOT}{}.{name}", id.to_string().replace('-', ""))
}

/// The prefix of the name of a copy of a snapshot that is about to become a machine's disk; the rest is
/// the machine's name.
const COPY: &str = "vgrid.back.";

pub(super) fn copy_of(machine: &MachineName) -> String {
    format!("{COPY}{machine}")
}

/// Returns for which machine a volume of that name is a copy of a snapshot.
pub(super) fn is_copy_for(volume: &str) -> Option<MachineName> {
    volume.strip_prefix(COPY)?.parse().ok()
}

/// Returns whether a volume with a machine's mark has the name of its disk, its snapshot, or a copy of
/// one.
pub(super) fn is_made_for(machine: &Machine, volume: &Volume) -> bool {
    let is_disk = || Disk::ALL.iter().any(|&disk| name(&machine.name, disk) == volume.name);
    let is_snapshot =
        || volume.snapshot.as_ref().is_some_and(|known| snapshot(machine.id, &known.name) == volume.name);
    is_disk() || is_snapshot() || volume.name == copy_of(&machine.name)
}

fn name(machine: &MachineName, disk: Disk) -> String {
    let prefix = match disk {
        Disk::Root => ROOT_PREFIX,
        Disk::Swap => SWAP_PREFIX,
    };
    format!("{prefix}{machine}")
}

fn machine_of(tags: &str) -> Option<VmId> {
    tags.split(',').find_map(|tag| tag.trim().strip_prefix(TAG)?.parse().ok())
}

#[derive(Deserialize)]
struct Reports<T> {
    report: Vec<T>,
}

/// Parses the whole MiB of LVM's `8188.00m`.
fn mebibytes(text: &str) -> Result<Amount, StorageError> {
    let number = text.trim().trim_start_matches('<').trim_end_matches('m');
    let whole = number.split('.').next().unwrap_or_default();
    whole.parse().map(Amount::from_mib).map_err(|_| StorageError::Other(format!("{text:?} is not a size")))
}

/// Parses the rows of a report.
fn reports<T: for<'a> Deserialize<'a>>(json: &[u8]) -> Result<Vec<T>, StorageError> {
    serde_json::from_slice::<Reports<T>>(json)
        .map(|reports| reports.report)
        .map_err(|error| StorageError::Other(format!("LVM's report can't be read: {error}")))
}

/// The fields of a [`Space`].
const GROUP: &str = "vg_size,vg_free,vg_extent_size";
/// The fields of a [`Volume`].
const VOLUME: &str = "lv_name,lv_size,lv_attr,lv_tags";
/// What else is asked about a volume, for those of thin pools.
const THIN: &str = "pool_lv,data_percent,metadata_percent,lv_metadata_size,origin";

/// A group, as reported.
#[derive(Debug, Deserialize)]
pub(super) struct GroupRow {
    #[serde(rename = "vg_size")]
    size: String,
    #[serde(rename = "vg_free")]
    free: String,
    #[serde(rename = "vg_extent_size")]
    extent: String,
}

/// A volume, as reported.
#[derive(Debug, Deserialize)]
pub(super) struct VolumeRow {
    #[serde(rename = "lv_name")]
    name: String,
    #[serde(rename = "lv_size")]
    size: String,
    #[serde(rename = "lv_attr")]
    pub(super) attributes: String,
    #[serde(rename = "lv_tags")]
    tags: String,
}

impl GroupRow {
    pub(super) fn space(&self) -> Result<Space, StorageError> {
        Ok(Space {
            size: mebibytes(&self.size)?,
            free: mebibytes(&self.free)?,
            extent: mebibytes(&self.extent)?.max(Amount::from_mib(1)),
            fill: None,
        })
    }
}

impl VolumeRow {
    pub(super) fn volume(self) -> Result<Volume, StorageError> {
        Ok(Volume {
            size: mebibytes(&self.size)?,
            machine: machine_of(&self.tags),
            open: self.is_open(),
            snapshot: self.snapshot(),
            name: self.name,
        })
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let (_, name) = self.name.strip_prefix(SNAPSHOT)?.split_once('.')?;
        let name = name.parse().ok()?;
        Some(Snapshot { name, taken: self.taken()?, holds: self.holds()? })
    }

    /// Returns when it was made, if it is a prepared disk or a snapshot.
    pub(super) fn taken(&self) -> Option<Moment> {
        self.tagged(TAKEN).map(Moment::from_unix)
    }

    /// Returns how much it holds, if it is a prepared disk or a snapshot.
    pub(super) fn holds(&self) -> Option<Amount> {
        self.tagged(HOLDS).map(Amount::from_mib)
    }

    /// Returns what is behind this beginning of a tag, if it has one.
    fn tagged<T: FromStr>(&self, beginning: &str) -> Option<T> {
        self.tags().find_map(|tag| tag.strip_prefix(beginning)?.parse().ok())
    }

    fn standing(&self) -> Standing {
        Standing {
            marked: self.tags().any(|tag| tag.starts_with(TAG) || tag == UNUSED),
            open: self.is_open(),
            // lvs(8): plain, thin, raid, mirrored, cached, or a snapshot. An origin has a different
            // letter.
            alone: self.attributes.as_bytes().first().is_some_and(|kind| b"-VrRmMCs".contains(kind)),
        }
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.split(',').map(str::trim)
    }

    /// Returns the size before, in bytes, of a volume that is being enlarged.
    fn grown_from(&self) -> Option<u64> {
        self.tagged(GROWN_FROM)
    }

    fn is_unused(&self) -> bool {
        self.tags().any(|tag| tag == UNUSED)
    }

    /// Returns whether the volume is open. lvs(8): the sixth attribute is then `o`.
    fn is_open(&self) -> bool {
        self.attributes.as_bytes().get(5) == Some(&b'o')
    }
}

/// Parses the output of `vgs` with the fields of a group; `None` if it lists none.
pub fn parse_group(json: &[u8]) -> Result<Option<Space>, StorageError> {
    rows::<GroupRow>(json)?.first().map(GroupRow::space).transpose()
}

/// A group, and one of its volumes.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(flatten)]
    group: GroupRow,
    #[serde(flatten)]
    volume: VolumeRow,
}

/// Parses the output of `vgs` with the fields of a group and of its volumes: one row per volume.
pub(super) fn rows<T: for<'a> Deserialize<'a>>(json: &[u8]) -> Result<Vec<T>, StorageError> {
    #[derive(Deserialize)]
    struct Report<T> {
        vg: Vec<T>,
    }
    Ok(reports::<Report<T>>(json)?.into_iter().flat_map(|report| report.vg).collect())
}

/// Parses the same; `None` if the group has no volumes.
pub fn parse_all(json: &[u8]) -> Result<Option<(Space, Vec<Volume>)>, StorageError> {
    let rows: Vec<Row> = rows(json)?;
    let Some(first) = rows.first() else { return Ok(None) };
    let group = first.group.space()?;
    let volumes: Result<_, _> = rows.into_iter().map(|row| row.volume.volume()).collect();
    Ok(Some((group, volumes?)))
}

fn volume_rows(json: &[u8]) -> Result<Vec<VolumeRow>, StorageError> {
    Ok(rows::<Row>(json)?.into_iter().map(|row| row.volume).collect())
}

/// Determines the cause of a failure from LVM's standard error.
pub fn explain(group: &VolumeGroup, stderr: &str) -> StorageError {
    let says = |text: &str| stderr.contains(text);
    if says(&format!("Volume group \"{group}\" not found")) {
        StorageError::GroupMissing(group.clone())
    } else if ["insufficient free space", "Insufficient free space", "free space in thin pool"]
        .iter()
        .any(|text| says(text))
    {
        StorageError::NoSpace
    } else if says("already exists in volume group") {
        StorageError::VolumeExists
    } else if says("Failed to find logical volume")
        || says("Snapshot origin LV ")
        || says(&format!(" not found in volume group {group}"))
    {
        StorageError::VolumeMissing
    } else if says(" in use.") {
        StorageError::InUse
    } else {
        StorageError::Other(crate::model::fault::detail(stderr))
    }
}

/// What LVM said last of the group and its volumes. Each of LVM's programs takes a fraction of a second,
/// so a verb that makes disks asks once, and again after it has changed something. All others ask each
/// time, because they judge what was there before, which others may be changing.
#[derive(Debug, Default)]
pub struct Listing {
    is_kept: AtomicBool,
    json: Mutex<Option<Vec<u8>>>,
}

impl Listing {
    /// From now on, what was seen counts until this process changes something.
    pub fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    fn json(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.json.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        *self.json() = None;
    }
}

/// The volume group for the machines.
#[derive(Debug, Clone, Copy)]
pub struct Lvm<'a> {
    group: &'a VolumeGroup,
    listing: &'a Listing,
}

impl<'a> Lvm<'a> {
    /// Refers to the group with that name, which need not exist.
    pub fn new(group: &'a VolumeGroup, listing: &'a Listing) -> Self {
        Self { group, listing }
    }

    /// Runs one of LVM's programs, which may change something.
    pub(super) fn run(self, program: &'static str, args: &[&str]) -> Result<ProgramOutput, StorageError> {
        let done = self.ask(program, args);
        self.listing.forget();
        done
    }

    fn ask(self, program: &'static str, args: &[&str]) -> Result<ProgramOutput, StorageError> {
        let path = exec::find(&[program]).unwrap_or_else(|| PathBuf::from(program));
        Run::new(path).args(args.iter().copied()).limit(LIMIT).run().map_err(|error| match error {
            ExecError::Failed { .. } => explain(self.group, &error.said()),
            ExecError::TimedOut { limit, .. } => {
                StorageError::TimedOut { what: program, seconds: limit.as_secs() }
            }
            other => StorageError::Other(other.to_string()),
        })
    }

    /// Adds a tag to volumes, or removes it. LVM has committed this to disk before it returns.
    fn tag(self, option: &str, tag: &str, names: &[&str]) -> Result<(), StorageError> {
        let volumes: Vec<_> = names.iter().map(|name| self.displayed(name)).collect();
        let args: Vec<_> = [option, tag].into_iter().chain(volumes.iter().map(String::as_str)).collect();
        self.run("lvchange", &args).map(drop)
    }

    /// Makes a volume that large, and leaves what is on it alone.
    pub(super) fn extend(self, name: &str, size: Amount) -> Result<(), StorageError> {
        self.run("lvextend", &["-L", &format!("{}m", size.mib()), &self.displayed(name)]).map(|_| ())
    }

    fn report(self, fields: &str) -> Result<Vec<u8>, StorageError> {
        let args = ["--reportformat", "json", "--units", "m", "-o", fields, self.group.as_str()];
        self.ask("vgs", &args).map(|output| output.stdout)
    }

    /// Returns a report about the group and all its volumes.
    pub(super) fn list(self) -> Result<Vec<u8>, StorageError> {
        if let Some(json) = &*self.listing.json() {
            return Ok(json.clone());
        }
        let json = self.report(&format!("{GROUP},{VOLUME},{THIN}"))?;
        if self.listing.is_kept.load(Ordering::Relaxed) {
            *self.listing.json() = Some(json.clone());
        }
        Ok(json)
    }
}

impl Storage for Lvm<'_> {
    /// Runs a single program if there are any volumes.
    fn survey(&self) -> Result<Survey, StorageError> {
        let (space, volumes) = match parse_all(&self.list()?)? {
            Some(all) => all,
            None => (self.space()?, Vec::new()),
        };
        Ok(Survey { space, volumes, prepared: None })
    }

    fn space(&self) -> Result<Space, StorageError> {
        parse_group(&self.report(GROUP)?)?.ok_or_else(|| StorageError::GroupMissing(self.group.clone()))
    }

    fn volumes(&self) -> Result<Vec<Volume>, StorageError> {
        volume_rows(&self.list()?)?.into_iter().map(VolumeRow::volume).collect()
    }

    fn name(&self, machine: &Machine, disk: Disk) -> String {
        name(&machine.name, disk)
    }

    /// The pool of a machine's snapshots may be the host's storage no more.
    fn is_made_for(&self, machine: &Machine, volume: &Volume) -> bool {
        is_made_for(machine, volume)
    }

    fn displayed(&self, name: &str) -> String {
        format!("{}/{name}", self.group)
    }

    fn create(&self, machine: &Machine, disks: &[(Disk, Amount)]) -> Result<(), StorageError> {
        let tag = tag(machine.id);
        for (disk, size) in disks {
            let (name, size) = (self.name(machine, *disk), format!("{}m", size.mib()));
            let args =
                ["-y", "-W", "y", "-Z", "y", "-n", &name, "-L", &size, "--addtag", &tag, "--addtag", UNUSED];
            let args: Vec<_> = args.into_iter().chain([self.group.as_str()]).collect();
            self.run("lvcreate", &args)?;
        }
        Ok(())
    }

    /// The tag says how far the disk was used before, whatever is killed in between.
    fn grow(
        &self,
        machine: &Machine,
        disk: Disk,
        size: Amount,
        tell: &mut dyn FnMut(Percent) -> io::Result<()>,
    ) -> Result<(), StorageError> {
        let (name, path) = (self.name(machine, disk), self.path(machine, disk));
        let rows = volume_rows(&self.list()?)?;
        let row = rows.into_iter().find(|row| row.name == name).ok_or(StorageError::VolumeMissing)?;
        let growing = GrowingVolume { group: *self, name: &name, path: &path, tell: RefCell::new(tell) };
        grow::grow(&growing, row.grown_from(), size.bytes())
    }

    fn path(&self, machine: &Machine, disk: Disk) -> PathBuf {
        PathBuf::from(format!("/dev/{}/{}", self.group, self.name(machine, disk)))
    }

    fn is_block(&self) -> bool {
        true
    }

    fn attach(&self, machine: &Machine, disk: Disk) -> Result<Device, StorageError> {
        self.attach_at(&self.path(machine, disk))
    }

    fn attach_at(&self, path: &Path) -> Result<Device, StorageError> {
        Ok(Device { path: path.to_owned(), is_loop: false })
    }

    fn release(&self, _machine: &Machine) {}

    fn look_again(&self) {
        self.listing.forget();
    }

    fn unused(&self) -> Result<Vec<Volume>, StorageError> {
        let rows = volume_rows(&self.list()?)?;
        rows.into_iter().filter(VolumeRow::is_unused).map(VolumeRow::volume).collect()
    }

    fn mark_used(&self, names: &[&str]) -> Result<(), StorageError> {
        self.tag("--deltag", UNUSED, names)
    }

    fn standing(&self, name: &str) -> Result<Option<Standing>, StorageError> {
        let rows = volume_rows(&self.list()?)?;
        Ok(rows.iter().find(|row| row.name == name).map(VolumeRow::standing))
    }

    fn remove(&self, names: &[&str]) -> Result<(), StorageError> {
        let volumes: Vec<_> = names.iter().map(|name| self.displayed(name)).collect();
        let args: Vec<_> = std::iter::once("-f").chain(volumes.iter().map(String::as_str)).collect();
        self.run("lvremove", &args).map(drop)
    }

    /// A snapshot of LVM's first kind slows its origin down, and breaks once its space is full.
    fn snapshots(&self) -> Result<Box<dyn Snapshots + '_>, StorageError> {
        Err(StorageError::NoSnapshots("this host keeps disks in a volume group without a thin pool"))
    }

    /// A volume has its space from the beginning.
    fn is_full(&self) -> bool {
        false
    }

    fn clear(&self, _: &Machine) -> Result<(), StorageError> {
        Ok(())
    }
}

/// A volume that is to become larger.
struct GrowingVolume<'a> {
    group: Lvm<'a>,
    name: &'a str,
    path: &'a Path,
    tell: RefCell<&'a mut dyn FnMut(Percent) -> io::Result<()>>,
}

impl GrowingVolume<'_> {
    fn failed(&self, error: &io::Error) -> StorageError {
        StorageError::Other(format!("{}: {error}", self.path.display()))
    }
}

impl grow::Growing for GrowingVolume<'_> {
    fn size(&self) -> Result<u64, StorageError> {
        grow::size(self.path).map_err(|error| self.failed(&error))
    }

    fn note(&self, before: u64) -> Result<(), StorageError> {
        self.group.tag("--addtag", &format!("{GROWN_FROM}{before}"), &[self.name])
    }

    fn forget(&self, before: u64) -> Result<(), StorageError> {
        self.group.tag("--deltag", &format!("{GROWN_FROM}{before}"), &[self.name])
    }

    /// Without `--resizefs`, so LVM does not look at what is on it.
    fn extend(&self, size: u64) -> Result<(), StorageError> {
        self.group.extend(self.name, Amount::from_mib(size >> 20))
    }

    fn fill(&self, range: Range<u64>) -> Result<(), StorageError> {
        let mut tell = self.tell.borrow_mut();
        grow::fill(self.path, range, &mut **tell).map_err(|error| self.failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vg1() -> VolumeGroup {
        "vg1".parse().unwrap()
    }

    #[test]
    fn a_group_is_parsed() {
        let group = parse_group(include_bytes!("../../../tests/data/vgs.json")).unwrap().unwrap();
        assert_eq!(group.size, Amount::from_mib(12284));
        assert_eq!(group.free, Amount::from_mib(11236));
        assert_eq!(group.extent, Amount::from_mib(4));
        assert_eq!(group.rounded(Amount::from_mib(13)), Amount::from_mib(16));
        assert_eq!(group.rounded(Amount::from_mib(16)), Amount::from_mib(16));
        assert_eq!(parse_group(include_bytes!("../../../tests/data/vgs-missing.json")).unwrap(), None);
        assert!(parse_group(b"no JSON").is_err());
    }

    const ALL: &[u8] = include_bytes!("../../../tests/data/vgs-all.json");

    #[test]
    fn a_group_is_parsed_with_its_volumes_and_their_tags() {
        let (group, volumes) = parse_all(ALL).unwrap().unwrap();
        assert_eq!(group.free, Amount::from_mib(21392));
        let find = |name: &str| volumes.iter().find(|volume| volume.name == name).unwrap();
        let (root, other) = (find("xen-root-alice_vm1"), find("other"));
        assert_eq!(root.machine, "01a221b5-609b-7032-a26b-a42caf38cd10".parse().ok());
        assert_eq!((root.size, other.machine), (Amount::from_mib(1024), None));
        assert!(root.open && !other.open);
        assert_eq!(parse_all(include_bytes!("../../../tests/data/vgs-missing.json")).unwrap(), None);
    }

    #[test]
    fn what_was_listed_counts_until_something_may_have_changed() {
        let (group, listing) = (vg1(), Listing::default());
        let lvm = Lvm::new(&group, &listing);
        *listing.json() = Some(ALL.to_vec());
        assert_eq!((lvm.volumes().unwrap().len(), lvm.unused().unwrap().len()), (7, 0));
        lvm.run("no-such-program", &[]).unwrap_err();
        assert!(listing.json().is_none());
    }

    #[test]
    fn protected_volumes_are_recognized() {
        let rows = volume_rows(ALL).unwrap();
        let standing = |name: &str| rows.iter().find(|row| row.name == name).unwrap().standing();
        let plain = Standing { marked: false, open: false, alone: true };
        assert_eq!(standing("other"), plain);
        assert_eq!(standing("pool"), Standing { open: true, alone: false, ..plain });
        for name in ["xen-root-alice_vm1", "xen-swap-alice_vm2"] {
            assert_eq!(standing(name), Standing { marked: true, open: true, ..plain }, "{name}");
        }
        let row = |attributes: &str, tags: &str| {
            let (name, size) = ("xen-root-x".to_owned(), "8.00m".to_owned());
            VolumeRow { name, size, attributes: attributes.to_owned(), tags: tags.to_owned() }.standing()
        };
        for (attributes, alone) in [
            ("-wi-------", true),
            ("Vwi-a-tz--", true),
            ("swi-a-s---", true),
            ("rwi-a-r---", true),
            ("owi-a-s---", false),
            ("Owi-a-s---", false),
            ("twi-a-tz--", false),
            ("dwi-------", false),
            ("", false),
        ] {
            assert_eq!(row(attributes, "").alone, alone, "{attributes}");
        }
        for (tags, tagged) in [
            ("", false),
            ("backup,old,vgrid.newer", false),
            ("a,vgrid-x", true),
            ("vgrid-", true),
            ("a,vgrid.new", true),
        ] {
            assert_eq!(row("-wi-------", tags).marked, tagged, "{tags}");
        }
    }

    #[test]
    fn a_volume_that_is_being_enlarged_knows_its_size_before() {
        let row = |tags: &str| {
            let (name, size, attributes) = ("xen-root-x".to_owned(), "8.00m".to_owned(), String::new());
            VolumeRow { name, size, attributes, tags: tags.to_owned() }
        };
        let id = VmId::generate();
        let growing = row(&format!("{},{GROWN_FROM}1073741824", tag(id)));
        assert_eq!(growing.grown_from(), Some(1 << 30));
        assert_eq!((growing.is_unused(), growing.standing().marked), (false, true));
        assert_eq!(growing.volume().unwrap().machine, Some(id));
        for other in ["", "vgrid.new", "vgrid.grown-from.", "vgrid.grown-from.x", "vgrid.grown-from.-1"] {
            assert_eq!(row(other).grown_from(), None, "{other}");
        }
    }

    #[test]
    fn causes_of_failure_are_distinguished() {
        let texts = include_str!("../../../tests/data/lvm-errors.txt");
        let expected = [
            StorageError::GroupMissing(vg1()),
            StorageError::VolumeMissing,
            StorageError::VolumeExists,
            StorageError::NoSpace,
            StorageError::InUse,
            StorageError::InUse,
            StorageError::NoSpace,
            StorageError::VolumeMissing,
            StorageError::VolumeMissing,
            StorageError::Other("Pool nopool not found in Volume group vg1.".to_owned()),
        ];
        let texts: Vec<_> = texts.split("---\n").collect();
        assert_eq!(texts.len(), expected.len());
        for (text, expected) in texts.iter().zip(expected) {
            assert_eq!(explain(&vg1(), text), expected, "{text}");
        }
        assert!(matches!(explain(&vg1(), "  Can't get lock for vg1."), StorageError::Other(_)));
    }
}
