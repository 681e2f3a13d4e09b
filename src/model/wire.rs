//! The messages between server and nodes: JSON over HTTP, signed (see [`super::sign`]).
//!
//! | from | to | message | answers |
//! | --- | --- | --- | --- |
//! | server | `node/deploy` | POST [`DeployOrder`] | 202 [`Accepted`], else [`NodeRefusal`] |
//! | server | `node/terminate`, `stop`, `start`, `reboot` | POST [`MachineOrder`] | 202 [`Accepted`], else [`NodeRefusal`] |
//! | server | `node/save` | POST [`SaveOrder`] | 202 [`Accepted`], else [`NodeRefusal`] |
//! | server | `node/resize` | POST [`ResizeOrder`] | 202 [`Accepted`], else [`NodeRefusal`] |
//! | server | `node/snapshot` | POST [`SnapshotOrder`] | 200 [`SnapshotDone`], else [`NodeRefusal`] |
//! | server | `node/image` | POST [`ImageOrder`] | 200 [`ImageDone`], else [`NodeRefusal`] |
//! | server | `node/discard` | POST [`Foreign`] | 200 [`Discarded`], else [`NodeRefusal`] |
//! | server | `node/info` | GET | 200 [`NodeInfo`] |
//! | server | `node/console?machine=NAME` | GET | 200 [`ConsoleTail`], else [`NodeRefusal`] |
//! | node | `internal/status` | POST [`Report`] | 200 [`StatusReply`] |

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString};

use super::bounds;
use super::fault::Fault;
use super::lease::Moment;
use super::names::{
    DomainNumber, ForeignDomain, ForeignVolume, ImageName, ImageTag, MachineName, PhysicalHost, SavedImage,
    SnapshotName, UserName, VirtualHost, VmId,
};
use super::size::{Amount, Cpus};
use super::spec::{Sizes, Spec};
use super::stage::{Order, OrderNumber, Percent, Stage};

/// Make this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployOrder {
    /// The machine's id. Repeating an order with the same id changes nothing.
    pub id: VmId,
    /// The number of this order, which is the first for this machine.
    #[serde(default)]
    pub number: OrderNumber,
    /// Its owner.
    pub user: UserName,
    /// The node that is to make it.
    pub physical_host: PhysicalHost,
    /// The machine's DNS name.
    pub virtual_host: VirtualHost,
    /// What it is made of.
    #[serde(flatten)]
    pub spec: Spec,
}

/// Do to an existing machine what the endpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineOrder {
    /// The machine's id.
    pub id: VmId,
    /// The number of this order. A node carries out each order once, and none that is older than
    /// one that it has carried out.
    pub number: OrderNumber,
    /// Its owner.
    pub user: UserName,
    /// Its name.
    pub virtual_host: VirtualHost,
}

/// Save the disk of an existing machine as an image of its owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveOrder {
    /// The machine.
    pub machine: MachineOrder,
    /// What its owner calls the image.
    pub name: ImageName,
}

/// Give a stopped machine these sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeOrder {
    /// The machine.
    pub machine: MachineOrder,
    /// Its sizes afterwards, also those that stay.
    pub sizes: Sizes,
}

/// Take, delete or go back to a snapshot of a machine's root disk, or go back to its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SnapshotMessage", into = "SnapshotMessage")]
pub struct SnapshotOrder {
    /// The machine. A node carries out no order of this number again.
    pub machine: MachineOrder,
    /// What to do.
    pub act: SnapshotAct,
}

/// What a [`SnapshotOrder`] has done, and to which snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotAct {
    /// Take it, of a disk as it is at this moment.
    Take(SnapshotName),
    /// Give the machine, which must be stopped, the disk that it had then. The snapshot stays.
    RollBack(SnapshotName),
    /// Delete it. Succeeds if it is already gone.
    Delete(SnapshotName),
    /// Give the machine, which must be stopped, the disk that its image's file makes. Its snapshots stay.
    AsNew,
}

/// The kinds of [`SnapshotAct`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, EnumString)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum SnapshotVerb {
    /// See [`SnapshotAct::Take`].
    Take,
    /// See [`SnapshotAct::RollBack`].
    RollBack,
    /// See [`SnapshotAct::Delete`].
    Delete,
    /// See [`SnapshotAct::AsNew`].
    AsNew,
}

impl SnapshotAct {
    /// Returns its kind.
    pub fn verb(&self) -> SnapshotVerb {
        match self {
            Self::Take(_) => SnapshotVerb::Take,
            Self::RollBack(_) => SnapshotVerb::RollBack,
            Self::Delete(_) => SnapshotVerb::Delete,
            Self::AsNew => SnapshotVerb::AsNew,
        }
    }

    /// Returns the snapshot that it is about, if it is about one.
    pub fn name(&self) -> Option<&SnapshotName> {
        match self {
            Self::Take(name) | Self::RollBack(name) | Self::Delete(name) => Some(name),
            Self::AsNew => None,
        }
    }
}

/// A [`SnapshotOrder`] as it is sent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotMessage {
    machine: MachineOrder,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<SnapshotName>,
    act: SnapshotVerb,
}

impl TryFrom<SnapshotMessage> for SnapshotOrder {
    type Error = &'static str;

    fn try_from(message: SnapshotMessage) -> Result<Self, Self::Error> {
        let SnapshotMessage { machine, name, act } = message;
        let act = match (act, name) {
            (SnapshotVerb::Take, Some(name)) => SnapshotAct::Take(name),
            (SnapshotVerb::RollBack, Some(name)) => SnapshotAct::RollBack(name),
            (SnapshotVerb::Delete, Some(name)) => SnapshotAct::Delete(name),
            (SnapshotVerb::AsNew, None) => SnapshotAct::AsNew,
            (SnapshotVerb::AsNew, Some(_)) => return Err("a machine goes back to its image without a name"),
            (_, None) => return Err("the snapshot's name is missing"),
        };
        Ok(Self { machine, act })
    }
}

impl From<SnapshotOrder> for SnapshotMessage {
    fn from(order: SnapshotOrder) -> Self {
        let (name, act) = (order.act.name().cloned(), order.act.verb());
        Self { machine: order.machine, name, act }
    }
}

/// A [`SnapshotOrder`] has been carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDone {
    /// All snapshots that the machine has now.
    #[serde(deserialize_with = "bounds::list")]
    pub snapshots: Vec<Snapshot>,
    /// What the host has free now.
    pub host: HostFacts,
}

/// Rename or delete a saved image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOrder {
    /// The image.
    pub image: SavedImage,
    /// What to do with it.
    pub act: ImageAct,
}

/// What can be done with a saved image. Both are idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageAct {
    /// Delete it. Succeeds if it is already gone.
    Delete,
    /// Give it this name. Succeeds if it already has it.
    Rename(ImageName),
}

/// An [`ImageOrder`] has been carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDone {
    /// What the host has free now.
    pub host: HostFacts,
}

/// Remove something that vGrid did not make. Succeeds if it is already gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Foreign {
    /// A volume that has no machine's tag.
    Volume {
        /// Its name.
        name: ForeignVolume,
    },
    /// A domain.
    Domain {
        /// Its name.
        name: ForeignDomain,
        /// Its number, as it was listed. A domain of another number is another domain.
        number: DomainNumber,
    },
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { name } => write!(f, "the volume {name}"),
            Self::Domain { name, .. } => write!(f, "the domain {name}"),
        }
    }
}

/// A [`Foreign`] has been removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discarded {
    /// What has been removed.
    pub stranger: Foreign,
}

/// The node has accepted an order, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The machine that the order is for.
    pub id: VmId,
    /// What the host has free, less what the order reserves.
    pub host: HostFacts,
}

/// The node has refused an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRefusal {
    /// Why.
    pub fault: Fault,
}

/// What a host has, by its own account, which comes with every message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Memory that no domain uses.
    pub memory_free: Amount,
    /// All of the host's memory.
    pub memory_total: Amount,
    /// Free space in the volume group.
    pub disk_free: Amount,
    /// Size of the volume group.
    pub disk_total: Amount,
    /// The node part's version.
    #[serde(deserialize_with = "bounds::word")]
    pub version: String,
    /// The digest of the node's common.cfg ([`super::digest::digest`]).
    #[serde(deserialize_with = "bounds::word")]
    pub common_digest: String,
    /// The most processors that it gives a machine; absent if it knows no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpus: Option<Cpus>,
    /// The images that it can deploy: those of its common.cfg for which it has settings and a
    /// readable file. Older nodes do not say; they may have any.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "bounds::some_list")]
    pub images: Option<Vec<ImageTag>>,
    /// Whether QEMU emulates the processors of its machines of type `kvm`, so that they are slow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emulated: bool,
    /// Whether its storage can take snapshots of machines' disks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshots: bool,
    /// How full its thin pool is; absent if it has none, or could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolFill>,
}

/// How much of a thin pool's space is taken. A pool without any breaks the disks in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFill {
    /// The share of the space for data.
    pub data: Percent,
    /// The share of the metadata that may be taken.
    pub metadata: Percent,
}

impl PoolFill {
    /// Returns the share of whichever is fuller.
    pub fn fuller(self) -> Percent {
        self.data.max(self.metadata)
    }
}

impl fmt::Display for PoolFill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}% of its space for data, {}% of that for metadata", self.data.get(), self.metadata.get())
    }
}

/// A node reports how work on a machine is going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub id: VmId,
    /// The order that is being carried out.
    pub order: Order,
    /// Its number.
    pub number: OrderNumber,
    /// Counts up within one order. A report with a lower number than the last one is late.
    pub sequence: u32,
    /// What happened.
    pub news: News,
    /// What the host has free now; absent if it could not be found out.
    pub host: Option<HostFacts>,
}

/// What happened in carrying out an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum News {
    /// A stage of the work has begun or moved on.
    Progress {
        /// The stage.
        stage: Stage,
        /// How much of it is done, if the stage can tell.
        percent: Option<Percent>,
        /// The place in the queue, from 1, of a deploy that waits for others. One that waits for its
        /// image to be prepared has the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<u32>,
    },
    /// The order has been carried out: the machine runs, or is stopped, or nothing of it is left, or
    /// it has the sizes that were ordered.
    Done,
    /// The disk has been saved as an image, and the machine is stopped.
    Saved {
        /// The size of the image's file.
        bytes: u64,
    },
    /// The order could not be carried out. After a deploy, nothing of the machine is left; after a
    /// removal, something is. After a start, a reboot or a save, the machine is stopped; after a
    /// stop or a change of its sizes, it is as it was.
    Failed {
        /// Why.
        fault: Fault,
    },
}

/// The server's decision on a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Go on.
    Continue,
    /// The server has given up this deploy. Undo it, unless the machine has run; then keep it.
    Abandon,
    /// The server does not know this machine. Leave it as it is.
    Unknown,
}

/// An order that comes with the answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextOrder {
    /// What to do.
    pub order: Order,
    /// Its number.
    pub number: OrderNumber,
}

/// The body of the answer from `internal/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// Whether to go on.
    pub verdict: Verdict,
    /// What has been ordered for this machine meanwhile, and comes next. The server does not call
    /// the node about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextOrder>,
}

/// The last part of a machine's console output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleTail {
    /// The output, with unprintable characters replaced.
    #[serde(deserialize_with = "bounds::console")]
    pub text: String,
    /// Whether earlier output was cut off.
    pub truncated: bool,
}

/// Everything a node knows about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Memory, space, version, digest.
    pub host: HostFacts,
    /// The toolstack in use, such as `xl`; several with `+` between them.
    #[serde(deserialize_with = "bounds::word")]
    pub toolstack: String,
    /// All domains, including the control domain.
    #[serde(deserialize_with = "bounds::list")]
    pub domains: Vec<Domain>,
    /// All volumes of the volume group.
    #[serde(deserialize_with = "bounds::list")]
    pub volumes: Vec<Volume>,
    /// The machines that this node has a record of.
    #[serde(deserialize_with = "bounds::list")]
    pub jobs: Vec<Job>,
    /// The images of `common.cfg`.
    #[serde(deserialize_with = "bounds::list")]
    pub images: Vec<ImageFile>,
    /// The images that people saved here.
    #[serde(default, deserialize_with = "bounds::list")]
    pub saved: Vec<SavedFile>,
    /// The lists above that are empty because the node could not make them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "bounds::list")]
    pub unknown: Vec<Part>,
}

/// A list in [`NodeInfo`] that needs an answer from a part of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The domains: the toolstack did not answer.
    Domains,
    /// The volumes: the storage did not answer.
    Volumes,
    /// The saved images: their directory could not be read.
    Saved,
}

impl NodeInfo {
    /// Returns whether the node could make that list. Otherwise what is not in it may still be there.
    pub fn knows(&self, part: Part) -> bool {
        !self.unknown.contains(&part)
    }
}

/// A domain as the toolstack lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its name.
    #[serde(deserialize_with = "bounds::word")]
    pub name: String,
    /// Its number, which changes when it reboots.
    pub id: DomainNumber,
    /// Its memory.
    pub memory: Amount,
    /// What it is doing, in a word, such as `running`.
    #[serde(deserialize_with = "bounds::word")]
    pub state: String,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    #[serde(deserialize_with = "bounds::word")]
    pub name: String,
    /// Its size.
    pub size: Amount,
    /// The machine that it was made for, according to its tag; absent if vGrid did not make it.
    pub machine: Option<VmId>,
    /// Whether something has it open.
    pub open: bool,
    /// The snapshot that it is of the machine's root disk; absent if it is a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

/// A snapshot of a machine's root disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Snapshot {
    /// What its owner calls it.
    pub name: SnapshotName,
    /// When it was taken.
    pub taken: Moment,
    /// The space that it holds, once the machine has overwritten all that was on its disk then.
    pub holds: Amount,
}

/// A machine that the node has a record of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The machine.
    pub id: VmId,
    /// Its name.
    pub machine: MachineName,
    /// The order that is being carried out, if any.
    pub work: Option<Order>,
    /// The stage of that order.
    pub stage: Option<Stage>,
    /// Whether the machine is stopped, by order.
    pub stopped: bool,
    /// When the record was made.
    pub since: Moment,
    /// The number of the last order that the node accepted.
    #[serde(default)]
    pub number: OrderNumber,
    /// The order that made it; absent if a terminate is all that the node has ever heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<DeployOrder>,
}

/// The file of a saved image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    /// The file's name without its ending ([`SavedImage::stem`]).
    #[serde(deserialize_with = "bounds::word")]
    pub stem: String,
    /// Its size.
    pub bytes: u64,
}

/// An image in the node's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Its key.
    pub tag: ImageTag,
    /// The size of its file in bytes; absent if the file can't be read.
    pub bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_to_deploy_is_flat_and_has_no_field_that_is_not_known() {
        let json = r#"{"id":"01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f00","number":7,"user":"alice","physical_host":"node1","virtual_host":"vm1","image":"tiny","memory":128,"disk":1,"saved":{"owner":"alice","name":"web"}}"#;
        let order: DeployOrder = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&order).unwrap(), json);
        for (field, instead) in [("\"image\"", "\"picture\""), ("\"number\"", "\"nummer\"")] {
            serde_json::from_str::<DeployOrder>(&json.replace(field, instead)).unwrap_err();
        }
        let more = json.replace("\"disk\"", "\"cores\":2,\"disk\"");
        let refused = serde_json::from_str::<DeployOrder>(&more).unwrap_err().to_string();
        assert!(refused.contains("unknown field `cores`"), "{refused}");
        let twice = json.replace("\"disk\":1", "\"disk\":1,\"disk\":2");
        assert!(serde_json::from_str::<DeployOrder>(&twice).is_err());
    }

    #[test]
    fn processors_are_in_an_order_only_if_there_are_several() {
        let json = r#"{"id":"01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f00","number":7,"user":"alice","physical_host":"node1","virtual_host":"vm1","image":"tiny","memory":128,"cpus":2,"disk":1}"#;
        let mut order: DeployOrder = serde_json::from_str(json).unwrap();
        assert_eq!(order.spec.cpus.get(), 2);
        assert_eq!(serde_json::to_string(&order).unwrap(), json);
        order.spec.cpus = Cpus::default();
        let one = serde_json::to_string(&order).unwrap();
        assert_eq!(one, json.replace("\"cpus\":2,", ""));
        assert_eq!(serde_json::from_str::<DeployOrder>(&one).unwrap(), order);
        for bad in ["0", "65", "-1", "1.5", "\"2\"", "null"] {
            let json = json.replace("\"cpus\":2", &format!("\"cpus\":{bad}"));
            assert!(serde_json::from_str::<DeployOrder>(&json).is_err(), "{bad}");
        }
    }
}
