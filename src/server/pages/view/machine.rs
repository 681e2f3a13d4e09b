//! A machine, as pages show it.

use std::cmp::Ordering;

use serde::Serialize;

use super::TimeView;
use crate::config::Common;
use crate::model::fault::Fault;
use crate::model::stage::{Percent, Stage};
use crate::model::state::State;
use crate::model::text::{Row, one_line};
use crate::server::machine::terminate::may_force;
use crate::server::registry::vm::Vm;

/// A machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineView {
    /// Its id.
    pub id: String,
    /// The name of its state.
    pub state: &'static str,
    /// Its name.
    pub virtual_host: String,
    /// Its host.
    pub physical_host: String,
    /// Who chose the host: `asked` for its owner, `chosen` for vGrid, `again` if the first host
    /// that vGrid chose could not make it.
    pub placed: &'static str,
    /// The tag of its image.
    pub image: String,
    /// The saved image that it was made from, as `owner/name`, if any.
    pub saved_image: Option<String>,
    /// The snapshot that it was made from, as `fromSnapshot` names it, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_snapshot: Option<String>,
    /// The description of `image` in the configuration; the tag if it is no longer there.
    pub image_description: String,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its virtual processors.
    #[serde(rename = "vmCPUs")]
    pub cpus: u32,
    /// Its root partition, in GiB.
    pub disk_gib: u32,
    /// Its owner's label; may be empty.
    pub label: String,
    /// Its owner.
    pub owner: String,
    /// When it was requested.
    pub created: TimeView,
    /// When its lease ends; absent if it never does.
    pub expires: Option<TimeView>,
    /// Once its lease has ended: the earliest day on which its disk is removed.
    pub deletion: Option<TimeView>,
    /// Whether it is protected against termination by hand.
    pub protected: bool,
    /// The name of the image that its disk is being saved as.
    pub saving_as: Option<String>,
    /// The change of its sizes that is under way, such as `memory from 128 MiB to 256 MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resizing: Option<String>,
    /// What is being done, while it is in transition.
    pub stage: Option<String>,
    /// The progress of that, 0 to 100.
    pub percent: Option<u8>,
    /// Its place among those it waits for, from 1, while its deploy waits for others.
    pub place: Option<u32>,
    /// What went wrong, as a sentence.
    pub reason: Option<String>,
    /// Whether it is in transition, so that the page will change.
    pub moving: bool,
    /// Its page.
    pub url: String,
    /// The page that sets its lease.
    pub extend_url: String,
    /// The page that terminates it.
    pub terminate_url: String,
    /// The page with its console output.
    pub console_url: String,
    /// The form for another one like it.
    pub again_url: String,
    /// Whether the viewer may remove it without its host's consent.
    pub may_force: bool,
}

/// Stands for the end of a lease that has none.
const NEVER: &str = "never";

impl MachineView {
    /// Describes a machine as its owner, or an administrator, sees it.
    pub fn new(vm: &Vm, common: &Common, administrator: bool) -> Self {
        let id = vm.id.to_string();
        let description = common.images.iter().find(|(tag, _)| *tag == vm.spec.image);
        Self {
            state: vm.state.as_str(),
            virtual_host: vm.virtual_host.to_string(),
            physical_host: vm.physical_host.to_string(),
            placed: vm.placed.as_str(),
            image: vm.spec.image.to_string(),
            saved_image: vm.spec.saved.as_ref().map(|image| format!("{}/{}", image.owner, image.name)),
            from_snapshot: vm.spec.snapshot.as_ref().map(ToString::to_string),
            image_description: description
                .map_or_else(|| vm.spec.image.to_string(), |(_, description)| description.clone()),
            memory_mib: vm.spec.memory.get(),
            cpus: vm.spec.cpus.get(),
            disk_gib: vm.spec.disk.get(),
            label: vm.label.to_string(),
            owner: vm.owner.as_str().to_owned(),
            created: vm.created.into(),
            expires: vm.expires.map(TimeView::from),
            deletion: vm.deletion.filter(|_| vm.state.is_live()).map(TimeView::from),
            protected: vm.protected,
            saving_as: vm
                .saving
                .as_ref()
                .filter(|_| vm.state == State::Saving)
                .map(|saving| saving.name.to_string()),
            resizing: vm
                .resizing
                .filter(|_| vm.state == State::Resizing)
                .map(|sizes| vm.spec.sizes().changed_to(sizes)),
            stage: stage_text(vm.state, vm.stage, vm.place),
            percent: percent_shown(vm.state, vm.percent),
            place: vm.place,
            reason: vm.fault.as_ref().map(reason),
            moving: vm.state.is_transitional(),
            url: format!("show?id={id}"),
            extend_url: format!("extend?id={id}"),
            terminate_url: format!("terminate?id={id}"),
            console_url: format!("console?id={id}"),
            again_url: format!("deploy?like={id}"),
            may_force: may_force(vm, administrator),
            id,
        }
    }

    /// Returns the machine as a line for scripts, tab-separated: id, state, virtual host, physical
    /// host, image, memory (MiB), partition (GiB), owner, end of the lease (RFC 3339, or `never`),
    /// label, what is being done or what went wrong, and processors. No value contains a tab or a
    /// line break.
    pub fn line(&self) -> String {
        let doing = match (&self.stage, self.percent, &self.reason) {
            (Some(stage), percent, _) => doing(stage, percent),
            (None, _, reason) => reason.clone().unwrap_or_default(),
        };
        let Self {
            id, state, virtual_host, physical_host, image, memory_mib, disk_gib, owner, label, ..
        } = self;
        Row::of(&[id, state, virtual_host, physical_host, image, memory_mib, disk_gib, owner])
            .and(self.expires.as_ref().map_or(NEVER, |expires| &expires.iso))
            .and(label)
            .and(doing)
            .and(self.cpus)
            .line()
    }
}

/// Returns what is being done with a machine in transition.
fn stage_text(state: State, stage: Option<Stage>, place: Option<u32>) -> Option<String> {
    state.is_transitional().then(|| match (place, stage) {
        (Some(_), Some(Stage::Unpack)) => "waiting until the image is prepared on the host".to_owned(),
        (Some(place), _) => format!("waiting for its turn, number {place} in the queue of its host"),
        (None, Some(stage)) => stage.to_string(),
        (None, None) => "waiting for the host".to_owned(),
    })
}

/// Returns the progress of that, in percent.
fn percent_shown(state: State, percent: Option<Percent>) -> Option<u8> {
    percent.filter(|_| state.is_transitional()).map(u8::from)
}

/// Returns a stage with its progress.
fn doing(stage: &str, percent: Option<u8>) -> String {
    percent.map_or_else(|| stage.to_owned(), |percent| format!("{stage}, {percent} %"))
}

/// Returns what went wrong with a machine, as a sentence on one line.
fn reason(fault: &Fault) -> String {
    one_line(&fault.to_string())
}

/// A stage of an order.
#[derive(Debug, Clone, Serialize)]
pub struct StageView {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub text: String,
    /// `done`, `now` or `todo`.
    pub status: &'static str,
}

/// Returns the stages of the last order about a machine. Empty if they mean nothing: for a machine
/// that is gone, and after an order that failed and left the machine as it was.
pub fn stages(vm: &Vm) -> Vec<StageView> {
    let all = vm.order.stages();
    let moving = vm.state.is_transitional();
    let settled = !moving && vm.state != State::Failed;
    if !vm.state.is_live() || (settled && vm.fault.is_some()) {
        return Vec::new();
    }
    let reached = vm.stage.and_then(|stage| all.iter().position(|s| *s == stage)).unwrap_or(0);
    let status = |n: usize| match n.cmp(&reached) {
        _ if settled => "done",
        Ordering::Less => "done",
        // A failed stage is not being worked on, and not done either.
        Ordering::Equal if moving => "now",
        _ => "todo",
    };
    let view = |(n, stage): (usize, &Stage)| StageView {
        name: stage.as_str(),
        text: stage.to_string(),
        status: status(n),
    };
    all.iter().enumerate().map(view).collect()
}
