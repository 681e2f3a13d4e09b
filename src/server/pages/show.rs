//! `user/show`: one machine, its progress and its history.

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{Data, UserCall, View};
use crate::config::{self, Common};
use crate::model::state::State;
use crate::model::text::Row;
use crate::server::pages::view::{MachineView, StageView, TimeView, stages};
use crate::server::pages::{access, unchanged};
use crate::server::registry::vm::Vm;
use crate::server::registry::{Reader, RegistryError};

/// The page.
#[derive(Debug, Serialize)]
struct ShowView {
    machine: MachineView,
    stages: Vec<StageView>,
    history: Vec<EventView>,
    /// Whether it is in transition, so that the page will change.
    moving: bool,
    /// Whether its host emulates processors, so that it is slow.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    emulated: bool,
    /// How many snapshots it has, if its host can take any.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots: Option<usize>,
    /// The token for the form that starts it, on the page of a stopped machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// One line of a machine's history.
#[derive(Debug, Serialize)]
struct EventView {
    at: TimeView,
    what: String,
    who: String,
    from: String,
    detail: String,
}

impl View for ShowView {
    const TEMPLATE: &'static str = "show.html";
}

impl Data for ShowView {
    /// The machine's line as in the list, then its history in lines that begin with `#`: time (RFC
    /// 3339), what, who, from where, detail; tab-separated.
    fn text(&self) -> String {
        let history = self.history.iter().map(|event| {
            let EventView { at, what, who, from, detail } = event;
            Row::of(&[&format_args!("# {}", at.iso), what, who, from, detail]).line()
        });
        std::iter::once(self.machine.line()).chain(history).collect()
    }
}

/// Serves `user/show`. Field: `id`. Machines that are gone are shown too, for their history.
///
/// # Errors
/// 400, 403 for other people's machines, 404, 503 if the registry stays locked for too long.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    unchanged::unless_known::<ShowView>(call, || page(call))
}

fn page(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["id", "format"])?;
    let id = fields.required("id")?;
    let common = Common::load(&config::directory())?;
    let view = access::read(call, |reader| {
        let vm = access::machine(call, reader, id)?;
        let history = reader.history(id)?.into_iter().map(|event| EventView {
            at: event.at.into(),
            what: event.what,
            who: event.actor.who,
            from: event.actor.from,
            detail: event.detail,
        });
        Ok(ShowView {
            machine: MachineView::new(&vm, &common, call.administrator),
            stages: stages(&vm),
            history: history.collect(),
            moving: vm.state.is_transitional(),
            emulated: reader.emulates(&vm.physical_host)?,
            snapshots: snapshots(reader, &vm)?,
            token: (vm.state == State::Stopped && call.request.format == Format::Html)
                .then(|| call.form_token())
                .transpose()?,
        })
    })?;
    call.reply(200, &view)
}

fn snapshots(reader: Reader<'_>, vm: &Vm) -> Result<Option<usize>, RegistryError> {
    let count = reader.snapshots(vm.id)?.len();
    Ok((count > 0 || reader.takes_snapshots(&vm.physical_host)?).then_some(count))
}
