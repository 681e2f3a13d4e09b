//! `user/snapshots`: lists the snapshots of a machine's disk, takes and deletes them, and goes back to
//! one, or to the machine's image.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Fields;
use crate::cgi::serve::{Data, UserCall, View, WithBanner};
use crate::config::{self, Common};
use crate::model::names::SnapshotName;
use crate::model::state::State;
use crate::model::text::{Row, sentence};
use crate::model::wire::{Snapshot, SnapshotAct, SnapshotVerb};
use crate::server::machine::snapshots;
use crate::server::nodes::{CallFailure, Nodes};
use crate::server::pages::access;
use crate::server::pages::target::Target;
use crate::server::pages::view::{MachineView, TimeView, ask_again, field_fault};
use crate::server::registry::vm::{OnNode, Vm};

/// The page.
#[derive(Debug, Serialize)]
struct SnapshotsView {
    machine: MachineView,
    snapshots: Vec<SnapshotView>,
    /// Why none can be taken now.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
    /// Why the machine can't go back to its image now.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_new_obstacle: Option<String>,
    /// Whether the machine runs, so that a snapshot has what a crash would leave.
    runs: bool,
    /// The value of the field for a name.
    name: String,
    /// Faults of that field.
    faults: BTreeMap<&'static str, String>,
}

/// A snapshot.
#[derive(Debug, Serialize)]
struct SnapshotView {
    name: String,
    taken: TimeView,
    /// The space that it may take, in MiB.
    holds_mib: u64,
    /// The same, for people.
    holds: String,
}

impl From<Snapshot> for SnapshotView {
    fn from(Snapshot { name, taken, holds }: Snapshot) -> Self {
        let (holds_mib, holds) = (holds.mib(), holds.to_string());
        Self { name: name.to_string(), taken: taken.into(), holds_mib, holds }
    }
}

impl SnapshotView {
    fn line(&self) -> String {
        Row::of(&[&self.name, &self.taken.iso, &self.holds_mib]).line()
    }
}

impl View for SnapshotsView {
    const TEMPLATE: &'static str = "snapshots.html";
}

impl Data for SnapshotsView {
    /// One line per snapshot, newest first, tab-separated: name, when it was taken (RFC 3339), the space
    /// that it may take (MiB).
    fn text(&self) -> String {
        self.snapshots.iter().map(SnapshotView::line).collect()
    }
}

/// The confirmation page of what is about one snapshot.
#[derive(Debug, Serialize)]
struct AskView {
    machine: MachineView,
    snapshot: SnapshotView,
    /// `roll-back` or `delete`.
    act: String,
    /// Why that is not possible now.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
}

impl View for AskView {
    const TEMPLATE: &'static str = "snapshot.html";
}

impl Data for AskView {
    /// The snapshot's line, as in the list.
    fn text(&self) -> String {
        self.snapshot.line()
    }
}

/// The confirmation page of going back to the image.
#[derive(Debug, Serialize)]
struct AsNewView {
    machine: MachineView,
    /// Why that is not possible now.
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<String>,
}

impl View for AsNewView {
    const TEMPLATE: &'static str = "as-new.html";
}

impl Data for AsNewView {
    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}

/// What was done.
#[derive(Debug, Serialize)]
struct DoneView {
    machine: MachineView,
    /// `taken`, `gone-back`, `deleted` or `as-new`.
    done: &'static str,
    /// The machine's snapshots now.
    snapshots: Vec<SnapshotView>,
}

impl Data for DoneView {
    /// The snapshots that there are now, as in the list.
    fn text(&self) -> String {
        self.snapshots.iter().map(SnapshotView::line).collect()
    }
}

fn read_verb(fields: &Fields) -> Result<Option<SnapshotVerb>, Refusal> {
    match fields.get("do") {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Refusal::bad_request("do is take, roll-back, delete or as-new.")),
    }
}

fn read_act(fields: &Fields, verb: SnapshotVerb) -> Result<SnapshotAct, Refusal> {
    match verb {
        SnapshotVerb::Take => read_name(fields).map(SnapshotAct::Take),
        SnapshotVerb::RollBack => read_name(fields).map(SnapshotAct::RollBack),
        SnapshotVerb::Delete => read_name(fields).map(SnapshotAct::Delete),
        SnapshotVerb::AsNew if fields.get("name").unwrap_or_default().is_empty() => Ok(SnapshotAct::AsNew),
        // Whoever names a snapshot may mean to go back to it.
        SnapshotVerb::AsNew => Err(field_fault(
            400,
            "name",
            "Leave the name out: as-new goes back to the image, not to a snapshot.",
        )),
    }
}

fn read_name(fields: &Fields) -> Result<SnapshotName, Refusal> {
    let text = fields.get("name").unwrap_or_default().trim();
    text.parse().map_err(|fault| field_fault(400, "name", sentence(&fault)))
}

/// Serves `user/snapshots`.
///
/// Fields: `id`, or as a convenience for scripts `vmHostname` (the live machine with that name); `do`
/// (`take`, `roll-back`, `delete`) with `name`, or `as-new` without; `token`, `format`. Without `do`, shows
/// the list. The answer to `do` is the list as it is then (202).
///
/// # Errors
/// 400; 403 for other people's machines; 404 for a machine or a snapshot that is not there; 409 in
/// states that do not allow it, beyond the quota, for a name that is taken, for a machine that was not made
/// from its image's own file if it is to go back to that, and if the host has a reason to refuse; 502 if the host can't be used; 503.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["id", "vmHostname", "do", "name", "token", "format"])?;
    let target = Target::read(call)?;
    let verb = read_verb(fields)?;
    let common = Common::load(&config::directory())?;
    let verb = match verb {
        Some(verb) if call.acts => verb,
        Some(SnapshotVerb::AsNew) => return call.reply(200, &ask_as_new(call, &common, &target)?),
        Some(verb @ (SnapshotVerb::RollBack | SnapshotVerb::Delete)) => {
            return call.reply(200, &ask(call, &common, &target, verb)?);
        }
        Some(SnapshotVerb::Take) | None => {
            return call.reply(200, &list(call, &common, &target, BTreeMap::new())?);
        }
    };
    match carry_out(call, &common, &target, verb) {
        Ok(reply) => Ok(reply),
        Err(refusal) => ask_again(call, refusal, |faults| list(call, &common, &target, faults)),
    }
}

fn list(
    call: &UserCall<'_>,
    common: &Common,
    target: &Target,
    faults: BTreeMap<&'static str, String>,
) -> Result<WithBanner<SnapshotsView>, Refusal> {
    access::read(call, |reader| {
        let vm = target.find(call, reader)?;
        let host = &vm.physical_host;
        let (obstacle, as_new_obstacle) = if reader.takes_snapshots(host)? {
            let quota = call.config.quota(vm.owner.user_name());
            let obstacle = snapshots::obstacle(&vm, SnapshotVerb::Take).map_or_else(
                || snapshots::quota_obstacle(reader, quota, &vm),
                |sentence| Ok(Some(sentence)),
            )?;
            (obstacle, snapshots::obstacle(&vm, SnapshotVerb::AsNew))
        } else {
            (
                Some(format!(
                    "The host {host} can't take snapshots. Stop the machine and save its disk as an image instead."
                )),
                Some(format!(
                    "No machine of the host {host} can go back to its image. Deploy a new machine like this one instead."
                )),
            )
        };
        Ok(SnapshotsView {
            snapshots: reader.snapshots(vm.id)?.into_iter().map(SnapshotView::from).collect(),
            obstacle,
            as_new_obstacle,
            runs: vm.state == State::Deployed,
            name: call.request.fields.get("name").unwrap_or_default().to_owned(),
            machine: MachineView::new(&vm, common, call.administrator),
            faults,
        })
    })
}

fn ask(
    call: &UserCall<'_>,
    common: &Common,
    target: &Target,
    verb: SnapshotVerb,
) -> Result<WithBanner<AskView>, Refusal> {
    let name = read_name(&call.request.fields)?;
    access::read(call, |reader| {
        let vm = target.find(call, reader)?;
        let known = reader.snapshots(vm.id)?.into_iter().find(|known| known.name == name);
        Ok(AskView {
            snapshot: known.ok_or_else(|| missing(&name))?.into(),
            obstacle: snapshots::obstacle(&vm, verb),
            act: verb.to_string(),
            machine: MachineView::new(&vm, common, call.administrator),
        })
    })
}

fn ask_as_new(
    call: &UserCall<'_>,
    common: &Common,
    target: &Target,
) -> Result<WithBanner<AsNewView>, Refusal> {
    read_act(&call.request.fields, SnapshotVerb::AsNew)?;
    access::read(call, |reader| {
        let vm = target.find(call, reader)?;
        Ok(AsNewView {
            obstacle: snapshots::obstacle(&vm, SnapshotVerb::AsNew),
            machine: MachineView::new(&vm, common, call.administrator),
        })
    })
}

fn missing(name: &SnapshotName) -> Refusal {
    Refusal::not_found(format!("This machine has no snapshot called {name}."))
}

fn carry_out(
    call: &UserCall<'_>,
    common: &Common,
    target: &Target,
    verb: SnapshotVerb,
) -> Result<Reply, Refusal> {
    let act = read_act(&call.request.fields, verb)?;
    // Before anything is recorded: if this fails, no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let vm = registry.write(|writer| {
        let vm = target.find(call, writer.reader())?;
        if let Some(sentence) = snapshots::obstacle(&vm, verb) {
            return Err(Refusal::conflict(sentence));
        }
        let all = writer.reader().snapshots(vm.id)?;
        let is_there = |name: &SnapshotName| all.iter().any(|known| known.name == *name);
        match &act {
            SnapshotAct::Take(name) if is_there(name) => {
                let sentence =
                    "There is a snapshot of that name already. Choose another, or delete it first.";
                return Err(field_fault(409, "name", sentence));
            }
            SnapshotAct::Take(_) => {
                let quota = call.config.quota(vm.owner.user_name());
                if let Some(sentence) = snapshots::quota_obstacle(writer.reader(), quota, &vm)? {
                    return Err(Refusal::conflict(sentence));
                }
            }
            SnapshotAct::RollBack(name) if !is_there(name) => return Err(missing(name)),
            // What the registry does not know of, the host may have all the same.
            SnapshotAct::RollBack(_) | SnapshotAct::Delete(_) | SnapshotAct::AsNew => {}
        }
        snapshots::begin(writer, &vm)?
            .ok_or_else(|| Refusal::conflict("This machine has just changed. Look at it, and try again."))
    })?;
    let now = snapshots::carry_out(&mut registry, &nodes, &vm, &act)?;
    let now = now.map_err(|trouble| not_done(&vm, &act, &trouble))?;
    let view = DoneView {
        machine: MachineView::new(&vm, common, call.administrator),
        done: match verb {
            SnapshotVerb::Take => "taken",
            SnapshotVerb::RollBack => "gone-back",
            SnapshotVerb::Delete => "deleted",
            SnapshotVerb::AsNew => "as-new",
        },
        snapshots: now.into_iter().map(SnapshotView::from).collect(),
    };
    let location = match verb {
        SnapshotVerb::RollBack | SnapshotVerb::AsNew => view.machine.url.clone(),
        SnapshotVerb::Take | SnapshotVerb::Delete => format!("snapshots?id={}", vm.id),
    };
    call.outcome(202, &location, &view)
}

/// Returns the refusal for an order that the host did not confirm.
fn not_done(vm: &Vm, act: &SnapshotAct, trouble: &CallFailure) -> Refusal {
    let CallFailure { fault, taken } = trouble;
    // A host that did not answer may have done it all the same.
    let known = if *taken == OnNode::Maybe { ", as far as is known" } else { "" };
    let what = match act {
        SnapshotAct::Take(name) => format!("The snapshot {name} was not taken"),
        SnapshotAct::RollBack(name) => format!("{} did not go back to the snapshot {name}", vm.virtual_host),
        SnapshotAct::Delete(name) => format!("The snapshot {name} was not deleted"),
        SnapshotAct::AsNew => format!("{} did not go back to its image", vm.virtual_host),
    };
    Refusal::new(fault.status(), format!("{what}{known}. {fault}"))
}
