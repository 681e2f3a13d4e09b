//! `user/resize`: shows a machine's sizes, and how much it can be given, and has them changed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Fields;
use crate::cgi::serve::{Data, UserCall, View, WithBanner};
use crate::config::{self, Common};
use crate::model::size::Cpus;
use crate::model::spec::Sizes;
use crate::model::state::State;
use crate::model::text::{Row, sentence};
use crate::server::machine::declined::{Declined, Part, When};
use crate::server::machine::quota::QuotaView;
use crate::server::machine::resize::{self, Most, Request, Room, Wish};
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::target::Target;
use crate::server::pages::view::{MachineView, ask_again, ordered};
use crate::server::registry::vm::Vm;

/// The fields for the sizes.
const FIELDS: [&str; 3] = ["vmMemory", "vmCPUs", "vmPartition"];

/// The page.
#[derive(Debug, Serialize)]
struct ResizeView {
    machine: MachineView,
    /// Why its sizes can't be changed now.
    idle: Option<String>,
    /// Whether such an order is already under way.
    again: bool,
    /// The values of the fields.
    values: BTreeMap<&'static str, String>,
    /// Faults of single fields.
    faults: BTreeMap<&'static str, String>,
    /// The most of each that it can be given at present.
    most: Most,
    host: RoomView,
    /// What its owner's machines have, and may have.
    quota: QuotaView,
}

/// What the host has; absent is what it has not said lately.
#[derive(Debug, Serialize)]
struct RoomView {
    memory_free: Option<String>,
    disk_free: Option<String>,
    /// The most processors that it gives a machine.
    max_cpus: Option<u32>,
    /// Whether it did not answer when it was last asked.
    silent: bool,
}

impl View for ResizeView {
    const TEMPLATE: &'static str = "resize.html";
}

impl Data for ResizeView {
    /// The machine's line, as in the list; `# most` with the most memory (MiB), processors and
    /// partition (GiB) that it can be given at present, tab-separated, `-` where no limit is known; then
    /// its owner's usage and quota (see [`QuotaView::line`]).
    fn text(&self) -> String {
        let Most { memory_mib, cpus, disk_gib } = self.most;
        let most = Row::of(&[&"# most"]).or_dash(memory_mib).or_dash(cpus).or_dash(disk_gib);
        [self.machine.line(), most.line(), self.quota.line()].concat()
    }
}

/// Serves `user/resize`.
///
/// Fields: `id`, or as a convenience for scripts `vmHostname` (the live machine with that name);
/// `vmMemory` (MiB), `vmCPUs`, `vmPartition` (GiB): what is absent or empty stays as it is; `token`,
/// `format`. Without any size, shows what the machine has and how much it can be given. Idempotent: a
/// machine that has the sizes already stays as it is (202), and one that is being given them gets the
/// order again.
///
/// # Errors
/// 400 for an invalid size and for a smaller disk, 403 for other people's machines, 404, 409 if the
/// quota or the host has too little, and in states in which sizes can't be changed; 503. If the host
/// did not accept the order, the machine stays as it was and its page says why; programs get 409 if
/// the host gave a reason, 502 if it can't be used, 503 if it is busy.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let known = ["id", "vmHostname", "token", "format"];
    call.request.fields.only(&[&known[..], &FIELDS[..]].concat())?;
    let target = Target::read(call)?;
    let common = Common::load(&config::directory())?;
    let given = |field: &&str| call.request.fields.get(field).is_some_and(|text| !text.trim().is_empty());
    if !call.acts || !FIELDS.iter().any(given) {
        return call.reply(200, &page(call, &common, &target, BTreeMap::new())?);
    }
    match act(call, &common, &target) {
        Ok(reply) => Ok(reply),
        Err(refusal) => ask_again(call, refusal, |faults| page(call, &common, &target, faults)),
    }
}

fn act(call: &UserCall<'_>, common: &Common, target: &Target) -> Result<Reply, Refusal> {
    let wish = read(&call.request.fields)?;
    // Before anything is recorded: if this fails, no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let (vm, told) = registry.write(|writer| {
        let vm = target.find(call, writer.reader())?;
        match resize::request(&vm, wish).map_err(Refusal::conflict)? {
            Request::Already => Ok((vm, false)),
            Request::Tell(sizes) => {
                if vm.state != State::Resizing {
                    let quota = call.config.quota(vm.owner.user_name());
                    Room::of(writer.reader(), quota, &vm)?.check(&vm, sizes).map_err(refusal)?;
                }
                let given = resize::begin(writer, &vm, sizes)?;
                Ok::<_, Refusal>(given.map_or((vm, false), |vm| (vm, true)))
            }
        }
    })?;
    if !told {
        return ordered(call, common, &vm, None);
    }
    let (vm, fault) = resize::carry_out(&mut registry, &nodes, &Post::new(&call.config), vm)?;
    ordered(call, common, &vm, fault.as_ref())
}

fn page(
    call: &UserCall<'_>,
    common: &Common,
    target: &Target,
    faults: BTreeMap<&'static str, String>,
) -> Result<WithBanner<ResizeView>, Refusal> {
    access::read(call, |reader| {
        let vm = target.find(call, reader)?;
        let quota = call.config.quota(vm.owner.user_name());
        let room = Room::of(reader, quota, &vm)?;
        let again = vm.state == State::Resizing;
        let host = RoomView {
            memory_free: room.host.memory_free.map(|free| free.to_string()),
            disk_free: room.host.disk_free.map(|free| free.to_string()),
            max_cpus: room.host.max_cpus.map(Cpus::get),
            silent: room.host.silent,
        };
        Ok(ResizeView {
            idle: if again { None } else { resize::state_obstacle(&vm) },
            values: values(&call.request.fields, &vm),
            most: room.most(&vm),
            quota: QuotaView::new(quota, reader.usage(&vm.owner)?),
            machine: MachineView::new(&vm, common, call.administrator),
            again,
            faults,
            host,
        })
    })
}

/// Returns the values of the fields: those given or, without them, those that the machine has or is
/// being given.
fn values(fields: &Fields, vm: &Vm) -> BTreeMap<&'static str, String> {
    let coming = vm.resizing.filter(|_| vm.state == State::Resizing);
    let Sizes { memory, cpus, disk } = coming.unwrap_or(vm.spec.sizes());
    let present = [memory.get(), cpus.get(), disk.get()];
    let value = |(field, present): (&'static str, u32)| {
        let given = fields.get(field).map(str::trim).filter(|text| !text.is_empty() && coming.is_none());
        (field, given.map_or_else(|| present.to_string(), str::to_owned))
    };
    FIELDS.into_iter().zip(present).map(value).collect()
}

/// Reads the sizes, so that all faults are reported at once.
fn read(fields: &Fields) -> Result<Wish, Refusal> {
    fn size<T: FromStr<Err: Display>>(
        fields: &Fields,
        field: &'static str,
        faults: &mut BTreeMap<&'static str, String>,
    ) -> Option<T> {
        let text = fields.get(field).map(str::trim).filter(|text| !text.is_empty())?;
        text.parse().map_err(|fault| faults.insert(field, sentence(&fault))).ok()
    }
    let mut faults = BTreeMap::new();
    let [memory, cpus, disk] = FIELDS;
    let wish = Wish {
        memory: size(fields, memory, &mut faults),
        cpus: size(fields, cpus, &mut faults),
        disk: size(fields, disk, &mut faults),
    };
    if faults.is_empty() { Ok(wish) } else { Err(refused(400, faults)) }
}

fn refusal(Declined { when, faults }: Declined) -> Refusal {
    let field = |part| match part {
        Part::Memory => "vmMemory",
        Part::Cpus => "vmCPUs",
        // The only other part of a request for other sizes.
        _ => "vmPartition",
    };
    let status = match when {
        When::Now => 409,
        When::Ever => 400,
    };
    refused(status, faults.into_iter().map(|(part, sentence)| (field(part), sentence)).collect())
}

fn refused(status: u16, faults: BTreeMap<&'static str, String>) -> Refusal {
    let sentence = match faults.values().next() {
        Some(only) if faults.len() == 1 => only.clone(),
        _ => "The sizes were not changed: some fields are not right.".to_owned(),
    };
    let mut refusal = Refusal::new(status, sentence);
    refusal.fields = faults;
    refusal
}
