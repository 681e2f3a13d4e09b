//! The form: its choices and the values in it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{FIELDS, SAVED, SNAPSHOT};
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::{Data, UserCall, View};
use crate::config::{Common, Leases};
use crate::model::names::{PhysicalHost, SavedImage, VmId};
use crate::model::text::Row;
use crate::server::machine::image::Named;
use crate::server::machine::pool::loads;
use crate::server::machine::quota::QuotaView;
use crate::server::machine::snapshots::NamedSnapshot;
use crate::server::pages::access;
use crate::server::pages::once;
use crate::server::pages::view::ImageView;
use crate::server::pages::view::MachineView;
use crate::server::registry::closed::{self, Kind};
use crate::server::registry::image::Image;
use crate::server::registry::user::Owner;
use crate::server::registry::vm::Vm;
use crate::server::registry::{Reader, RegistryError};

/// The proposed memory, in MiB, processors, and partition, in GiB.
const PROPOSED_MEMORY: &str = "256";
const PROPOSED_CPUS: &str = "1";
const PROPOSED_PARTITION: &str = "2";

/// Values of fields.
type Values = Vec<(&'static str, String)>;

/// The form.
#[derive(Debug, Serialize)]
struct DeployView {
    images: Vec<ImageChoice>,
    saved: Vec<SavedChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotChoice>,
    hosts: Vec<HostChoice>,
    names: Vec<NameChoice>,
    /// The values of the fields: each of [`FIELDS`], except that a saved image or a snapshot is in `vmImage`.
    values: BTreeMap<&'static str, String>,
    /// Faults of single fields.
    faults: BTreeMap<&'static str, String>,
    /// What is wrong with the form as a whole.
    message: Option<String>,
    maximum_lease: String,
    default_lease: String,
    quota: QuotaView,
    /// The id of the machine that this form will make, with its proof.
    machine: String,
    /// The page of the machine that this form made when it was sent before.
    made: Option<String>,
}

/// An image that can be chosen.
#[derive(Debug, Serialize)]
struct ImageChoice {
    tag: String,
    description: String,
}

/// A saved image that can be chosen.
#[derive(Debug, Serialize)]
struct SavedChoice {
    /// The value of `vmImage` that selects it.
    value: String,
    #[serde(flatten)]
    image: ImageView,
}

/// The snapshot that the form was opened for.
#[derive(Debug, Serialize)]
struct SnapshotChoice {
    /// The value of `vmImage` that selects it.
    value: String,
    name: String,
    /// The name of the machine that it is of.
    of: String,
    /// The image that that was made from.
    base: String,
    host: String,
    /// The smallest partition that it fits on, in GiB.
    disk_gib: u32,
}

/// A host that can be chosen.
#[derive(Debug, Serialize)]
struct HostChoice {
    name: String,
    machines: u32,
    maximum: u32,
    full: bool,
    /// Why it gets no new machines, if an administrator closed it.
    disabled: Option<String>,
    /// Whether it emulates the processors of its machines, so that they are slow.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    emulated: bool,
}

/// A name that can be chosen.
#[derive(Debug, Serialize)]
struct NameChoice {
    name: String,
    taken: bool,
    /// Why it is not available, if an administrator closed it.
    disabled: Option<String>,
}

impl View for DeployView {
    const TEMPLATE: &'static str = "deploy.html";
}

impl Data for DeployView {
    /// The choices, one line each, tab-separated: `image`, tag, description; `saved`, value for
    /// `savedImage`, host, image that it was made from, smallest partition (GiB); `host`, name,
    /// machines, maximum, `open` or `disabled`; `name`, name, `free`, `taken` or `disabled`;
    /// `lease`, default, maximum; then the caller's usage and quota (see [`QuotaView::line`]).
    fn text(&self) -> String {
        let images = self.images.iter().map(|i| Row::of(&[&"image", &i.tag, &i.description]).line());
        let saved = self.saved.iter().filter(|s| s.image.obstacle.is_none()).map(|s| {
            let ImageView { id, host, base, disk_gib, .. } = &s.image;
            Row::of(&[&"saved", id, host, base, disk_gib]).line()
        });
        let hosts = self.hosts.iter().map(|h| {
            let status = if h.disabled.is_some() { "disabled" } else { "open" };
            Row::of(&[&"host", &h.name, &h.machines, &h.maximum, &status]).line()
        });
        let names = self.names.iter().map(|n| {
            let status = match (n.taken, &n.disabled) {
                (true, _) => "taken",
                (false, Some(_)) => "disabled",
                (false, None) => "free",
            };
            Row::of(&[&"name", &n.name, &status]).line()
        });
        let lease = Row::of(&[&"lease", &self.default_lease, &self.maximum_lease]).line();
        images.chain(saved).chain(hosts).chain(names).chain([lease, self.quota.line()]).collect()
    }
}

/// Returns the form, filled in with the caller's values, then those of the machine named by `like`,
/// then defaults.
pub fn reply(
    call: &UserCall<'_>,
    common: &Common,
    status: u16,
    faults: BTreeMap<&'static str, String>,
    message: Option<String>,
    made: Option<&Vm>,
) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    let machine = once::for_a_form(call)?;
    let view = access::read(call, |reader| {
        let caller = access::caller(call, reader)?;
        let taken = reader.names_taken()?;
        let closed = reader.closed()?;
        let quota = QuotaView::new(call.config.quota(&call.user), reader.usage(&caller)?);
        let mut values = usual(common, &call.config.leases);
        if fields.get("like").is_some_and(|like| !like.is_empty()) {
            let id: VmId = fields.required("like")?;
            let vm = reader.vm(id)?.ok_or_else(|| Refusal::not_found("There is no machine with this id."))?;
            // Every user may call this endpoint, but only its owner may see a machine's values.
            let vm = access::permit(call, &caller, vm)?;
            values.extend(values_of(&vm, &caller, !taken.contains(&vm.virtual_host)));
        }
        let saved = reader.images_for(&caller)?;
        if let Some(Ok(named)) = fields.get("savedImage").map(str::parse::<Named>) {
            let named = named.resolved(reader, call.config.folding())?;
            values.extend(values_for(&named.by(&caller), &saved, &caller));
        }
        if let Some(origin) = fields.get("fromSnapshot") {
            values.insert("vmImage", format!("{SNAPSHOT}{origin}"));
        }
        for field in FIELDS.into_iter().filter(|field| !["savedImage", "fromSnapshot"].contains(field)) {
            if let Some(given) = fields.get(field) {
                values.insert(field, given.to_owned());
            }
        }
        let snapshot = snapshot(reader, &caller, values.get("vmImage"))?;
        let (snapshot, like) = snapshot.unzip();
        if let Some(like) = like
            && fields.get("fromSnapshot").is_some()
            && fields.get("vmPartition").is_none()
        {
            values.extend(like);
        }
        let saved = saved.iter().map(|image| SavedChoice {
            value: format!("{SAVED}{}", Named::of(&image.id(), &caller)),
            image: ImageView::new(image, common, &caller, call.administrator),
        });
        let images = common
            .images
            .iter()
            .map(|(tag, description)| ImageChoice { tag: tag.to_string(), description: description.clone() });
        let known = reader.hosts()?;
        let emulates =
            |name: &PhysicalHost| known.iter().any(|host| host.name == *name && host.facts.emulated);
        let hosts = loads(reader, common)?.into_iter().map(|load| HostChoice {
            full: load.is_full(),
            emulated: emulates(&load.host),
            name: load.host.to_string(),
            machines: load.machines,
            maximum: load.maximum,
            disabled: load.disabled,
        });
        let names = common.virtual_hosts.iter().map(|(name, _)| NameChoice {
            name: name.to_string(),
            taken: taken.contains(name),
            disabled: closed::find(&closed, Kind::Name, name.as_str()).map(|one| one.reason.clone()),
        });
        Ok(DeployView {
            images: images.collect(),
            saved: saved.collect(),
            snapshot,
            hosts: hosts.collect(),
            names: names.collect(),
            values,
            faults,
            message,
            maximum_lease: call.config.leases.maximum.to_string(),
            default_lease: call.config.leases.default.to_string(),
            quota,
            machine,
            made: made.map(|vm| MachineView::new(vm, common, call.administrator).url),
        })
    })?;
    call.reply(status, &view)
}

/// Returns the snapshot that the value of `vmImage` selects, if it is the caller's, with the values of a
/// form for a machine like that which it is of.
fn snapshot(
    reader: Reader<'_>,
    caller: &Owner,
    value: Option<&String>,
) -> Result<Option<(SnapshotChoice, Values)>, RegistryError> {
    let Some(value) = value else { return Ok(None) };
    let Some(Ok(origin)) = value.strip_prefix(SNAPSHOT).map(str::parse::<NamedSnapshot>) else {
        return Ok(None);
    };
    let Some(vm) = origin.find(reader, caller)? else { return Ok(None) };
    let like = vec![
        ("vmMemory", vm.spec.memory.get().to_string()),
        ("vmCPUs", vm.spec.cpus.get().to_string()),
        ("vmPartition", vm.spec.disk.get().to_string()),
        ("physicalHost", vm.physical_host.to_string()),
    ];
    let choice = SnapshotChoice {
        value: value.clone(),
        name: origin.name.to_string(),
        of: vm.virtual_host.to_string(),
        base: vm.spec.image.to_string(),
        host: vm.physical_host.to_string(),
        disk_gib: vm.spec.disk.get(),
    };
    Ok(Some((choice, like)))
}

/// Returns the values of an untouched form.
fn usual(common: &Common, leases: &Leases) -> BTreeMap<&'static str, String> {
    let image = common.images.first().map(|(tag, _)| tag.to_string()).unwrap_or_default();
    BTreeMap::from([
        ("vmImage", image),
        ("vmMemory", PROPOSED_MEMORY.to_owned()),
        ("vmCPUs", PROPOSED_CPUS.to_owned()),
        ("vmPartition", PROPOSED_PARTITION.to_owned()),
        ("physicalHost", String::new()),
        ("vmHostname", String::new()),
        ("vmName", String::new()),
        ("expiryTime", leases.default.to_string()),
    ])
}

/// Returns the values of a form for a machine made from a saved image, as far as the image is
/// known.
fn values_for(image: &SavedImage, known: &[Image], caller: &Owner) -> Values {
    let mut values = vec![("vmImage", format!("{SAVED}{}", Named::of(image, caller)))];
    if let Some(image) = known.iter().find(|known| known.id() == *image) {
        values.push(("vmPartition", image.disk.get().to_string()));
        values.push(("physicalHost", image.host.to_string()));
    }
    values
}

/// Returns the values of a form for another machine like `vm`, as `caller` sees it.
fn values_of(vm: &Vm, caller: &Owner, name_is_free: bool) -> BTreeMap<&'static str, String> {
    let saved = vm.spec.saved.as_ref().map(|image| format!("{SAVED}{}", Named::of(image, caller)));
    let saved = saved.or(vm.spec.snapshot.as_ref().map(|snapshot| format!("{SNAPSHOT}{snapshot}")));
    BTreeMap::from([
        ("vmImage", saved.unwrap_or_else(|| vm.spec.image.to_string())),
        ("vmMemory", vm.spec.memory.get().to_string()),
        ("vmCPUs", vm.spec.cpus.get().to_string()),
        ("vmPartition", vm.spec.disk.get().to_string()),
        ("physicalHost", vm.physical_host.to_string()),
        ("vmHostname", if name_is_free { vm.virtual_host.to_string() } else { String::new() }),
        ("vmName", vm.label.to_string()),
        ("expiryTime", vm.lease.to_string()),
    ])
}
