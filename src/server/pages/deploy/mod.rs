//! `user/deploy`: shows the form (`form`), reads its fields (`fields`), and has a machine made.

mod fields;
mod form;

use std::collections::BTreeMap;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::UserCall;
use crate::config::{self, Common};
use crate::model::stage::Order;
use crate::model::state::State;
use crate::server::audit;
use crate::server::machine::create::{Created, Mark, NotCreated, Requester, create};
use crate::server::machine::declined::{self, Part, When};
use crate::server::machine::moving::Mover;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::once;
use crate::server::pages::view::{field_fault, ordered};
use crate::server::registry::vm::Vm;
use crate::system::log::Level;

/// The fields of the form.
const FIELDS: [&str; 10] = [
    "vmImage",
    "savedImage",
    "fromSnapshot",
    "vmMemory",
    "vmCPUs",
    "vmPartition",
    "physicalHost",
    "vmHostname",
    "vmName",
    "expiryTime",
];

/// The prefix of a saved image's name in `vmImage`, as the form sends it: both kinds of images
/// share one group of radio buttons. No tag contains a colon.
const SAVED: &str = "saved:";

/// The prefix of a snapshot in `vmImage`, likewise.
const SNAPSHOT: &str = "snapshot:";

/// Why a request for a machine was declined, by field of the form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Declined {
    /// 400 for a request that can never be granted, 409 for one that can't be granted now.
    status: u16,
    /// Faults of single fields.
    faults: BTreeMap<&'static str, String>,
}

impl Declined {
    fn sentence(&self) -> String {
        match self.faults.values().next() {
            Some(only) if self.status == 409 && self.faults.len() == 1 => only.clone(),
            _ => "The machine was not deployed: some fields are not right.".to_owned(),
        }
    }
}

impl From<declined::Declined> for Declined {
    fn from(declined: declined::Declined) -> Self {
        let status = match declined.when {
            When::Now => 409,
            When::Ever => 400,
        };
        let faults = declined.faults.into_iter().map(|(part, sentence)| (field(part), sentence)).collect();
        Self { status, faults }
    }
}

/// Returns the field that a part of a request comes from.
fn field(part: Part) -> &'static str {
    match part {
        // It has no field of its own.
        Part::Machine => "machines",
        Part::Image => "savedImage",
        Part::Snapshot => "fromSnapshot",
        Part::Base => "vmImage",
        Part::Memory => "vmMemory",
        Part::Cpus => "vmCPUs",
        Part::Disk => "vmPartition",
        Part::Host => "physicalHost",
        Part::Name => "vmHostname",
    }
}

/// Serves `user/deploy`.
///
/// Fields: `vmImage`, or `savedImage` (`NAME`, or `OWNER/NAME` for a shared one), or `fromSnapshot`
/// (`MACHINE/NAME`, by the machine's id or its name; a copy of its disk with an identity of its own),
/// which determine the host; `vmMemory` (MiB), `vmPartition` (GiB); `vmCPUs` (empty: one); `physicalHost` and
/// `vmHostname` (empty or `auto`: vGrid chooses); `vmName` (a label); `expiryTime` (such as `7d`;
/// empty: the default lease); `like` (the id of a machine to fill the form in from); `requestId`
/// (from a script) or `machine` (from the form), which makes the order idempotent: if it is
/// repeated, nothing is done, and the answer is about the machine that it made; `token`, `format`.
///
/// On success: 303 to the machine's page for people, 202 and its data for programs (as text its
/// line, which begins with id and state). If its host refuses or fails, the machine is `failed`
/// with the reason; programs get 409 if the host gave a reason, 502 if it could not be used, 503 if
/// it was busy.
///
/// # Errors
/// 400 and 409 with the fault of each field (as HTML the form, filled in), 403, 503. Also 409 for a
/// repeated order with other values.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    let known: Vec<&str> =
        FIELDS.into_iter().chain([once::FORM, once::SCRIPT, "token", "format", "like"]).collect();
    fields.only(&known)?;
    let common = Common::load(&config::directory())?;
    if !call.acts {
        return form::reply(call, &common, 200, BTreeMap::new(), None, None);
    }
    let mark = once::read(call)?;
    let wish = match fields::read(fields, &common, &call.config.leases) {
        Ok(wish) => wish,
        Err(declined) => return decline(call, &common, declined),
    };
    // Before anything is recorded: if this fails, no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let quota = call.config.quota(&call.user);
    let folding = call.config.folding();
    let asking = Requester { user: &call.user, folding, quota, mark: mark.as_ref() };
    let vm = match create(&mut registry, &common, asking, wish) {
        Ok(Created::New(vm)) => vm,
        Ok(Created::Before(vm)) => {
            audit::order(Level::Info, "order.repeated", Order::Deploy, &vm, registry.actor(), "");
            return ordered(call, &common, &vm, vm.fault.as_ref().filter(|_| vm.state == State::Failed));
        }
        Err(NotCreated::Registry(error)) => return Err(error.into()),
        Err(NotCreated::SomebodyElse(known)) => return Err(access::somebody_else(&call.user, &known)),
        Err(NotCreated::Declined(declined)) => return decline(call, &common, declined.into()),
        Err(NotCreated::Restored) => {
            return Err(Refusal::busy(
                "The portal's registry has just been restored from a backup, and the hosts have to be compared with it \
                 first. Nothing was deployed; try again in a few minutes.",
            ));
        }
        Err(NotCreated::Used(vm)) => return used(call, &common, &vm, mark.as_ref()),
    };
    // Again: before somebody's first machine the registry did not know them.
    access::keep_mail(call, &mut registry);
    audit::order(Level::Info, "order.given", Order::Deploy, &vm, registry.actor(), "");
    let (vm, fault) = Mover::new(&call.config, &common).deploy(&mut registry, &nodes, vm)?;
    ordered(call, &common, &vm, fault.as_ref())
}

/// Answers an order whose mark was used before with other values. People get the form again, which
/// makes another machine when sent; for programs it is an error.
fn used(call: &UserCall<'_>, common: &Common, vm: &Vm, mark: Option<&Mark>) -> Result<Reply, Refusal> {
    if call.request.format == Format::Html {
        let sentence = format!(
            "Nothing was deployed: this form has already been sent, and made {}. Send it again to deploy another \
             machine.",
            vm.virtual_host
        );
        call.log_refusal(&Refusal::new(409, sentence.as_str()));
        return form::reply(call, common, 409, BTreeMap::new(), Some(sentence), Some(vm));
    }
    let field = mark.map_or(once::SCRIPT, once::field);
    Err(field_fault(
        409,
        field,
        format!("Nothing was deployed: {field} was given before, for machine {} with other values.", vm.id),
    ))
}

/// Answers a declined request: people get the form as they filled it in, with the faults next to
/// the fields; programs get the faults.
fn decline(call: &UserCall<'_>, common: &Common, declined: Declined) -> Result<Reply, Refusal> {
    let mut refusal = Refusal::new(declined.status, declined.sentence());
    refusal.fields = declined.faults;
    if call.request.format != Format::Html {
        return Err(refusal);
    }
    call.log_refusal(&refusal);
    form::reply(call, common, refusal.status, refusal.fields, Some(refusal.sentence), None)
}
