//! `user/deploy`: the form ([`form`]), what it says ([`fields`]), and having a machine made.

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
use crate::server::machine::create::{self, Asking, Mark, NotTaken, Part, Taken, When, take_on};
use crate::server::machine::moving::Mover;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::once;
use crate::server::pages::view::{field_fault, ordered};
use crate::server::registry::vm::Vm;
use crate::system::log::Level;

/// The fields of the form.
const FIELDS: [&str; 8] = [
    "vmImage",
    "savedImage",
    "vmMemory",
    "vmPartition",
    "physicalHost",
    "vmHostname",
    "vmName",
    "expiryTime",
];

/// What a saved image's name follows in `vmImage`, as the form sends it: there images of both kinds are one group of
/// buttons, of which one is pressed. No tag has a colon.
const SAVED: &str = "saved:";

/// Why a request for a machine was not granted, by the fields of the form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Declined {
    /// 400 for a request that can never be granted, 409 for one that can't be now.
    status: u16,
    /// What is wrong with single fields.
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

impl From<create::Declined> for Declined {
    fn from(declined: create::Declined) -> Self {
        let status = match declined.when {
            When::Now => 409,
            When::Ever => 400,
        };
        let faults = declined.faults.into_iter().map(|(part, sentence)| (field(part), sentence)).collect();
        Self { status, faults }
    }
}

/// The field that a part of a request is in.
fn field(part: Part) -> &'static str {
    match part {
        // In no field of its own.
        Part::Machine => "machines",
        Part::Image => "savedImage",
        Part::Base => "vmImage",
        Part::Memory => "vmMemory",
        Part::Disk => "vmPartition",
        Part::Host => "physicalHost",
        Part::Name => "vmHostname",
    }
}

/// Answers `user/deploy`.
///
/// Fields: `vmImage`, or `savedImage` (`NAME`, or `OWNER/NAME` for one that somebody shares), which decides on the host;
/// `vmMemory` (MiB), `vmPartition` (GiB); `physicalHost` and `vmHostname` (empty or
/// `auto`: vGrid chooses); `vmName` (a label); `expiryTime` (such as `7d`; empty: the default lease);
/// `like` (the id of a machine to fill the form in from); `requestId` (of a script) or `machine` (of the form), by which
/// an order is known when it comes again: then nothing is done, and the answer is about the machine that it made;
/// `token`, `format`.
///
/// Accepted: 303 to the machine's page for people, 202 and its data for programs (as text its line, which
/// begins with id and state). If its host refuses or fails the machine is `failed` with the reason: for programs
/// 409 when the host had a reason, 502 when it could not be used, 503 when it was busy.
///
/// # Errors
/// 400 and 409 with what is wrong with which field (as HTML the form, filled in), 403, 503. 409 also for an order that was
/// given before, for something else.
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
    // Read before anything is recorded: without it no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let quota = call.config.quota(&call.user);
    let folding = call.config.folding();
    let asking = Asking { user: &call.user, folding, quota, mark: mark.as_ref() };
    let vm = match take_on(&mut registry, &common, asking, wish) {
        Ok(Taken::New(vm)) => vm,
        Ok(Taken::Before(vm)) => {
            audit::order(Level::Info, "order.repeated", Order::Deploy, &vm, registry.actor(), "");
            return ordered(call, &common, &vm, vm.fault.as_ref().filter(|_| vm.state == State::Failed));
        }
        Err(NotTaken::Registry(error)) => return Err(error.into()),
        Err(NotTaken::SomebodyElse(known)) => return Err(access::somebody_else(&call.user, &known)),
        Err(NotTaken::Declined(declined)) => return decline(call, &common, declined.into()),
        Err(NotTaken::Restored) => {
            return Err(Refusal::busy(
                "The portal's registry has just been restored from a backup, and the hosts have to be compared with it \
                 first. Nothing was deployed; try again in a few minutes.",
            ));
        }
        Err(NotTaken::Used(vm)) => return used(call, &common, &vm, mark.as_ref()),
    };
    // Of somebody's first machine: nobody knew them before.
    access::keep_mail(call, &mut registry);
    audit::order(Level::Info, "order.given", Order::Deploy, &vm, registry.actor(), "");
    let (vm, fault) = Mover::new(&call.config, &common).deploy(&mut registry, &nodes, vm)?;
    ordered(call, &common, &vm, fault.as_ref())
}

/// Answers an order that was given before, for something else: people are asked whether they want another machine, by a
/// form that makes one; programs have made a mistake.
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

/// Answers a request that was not taken on: for people the form as they filled it in, with the faults
/// beside the fields; for programs the faults.
fn decline(call: &UserCall<'_>, common: &Common, declined: Declined) -> Result<Reply, Refusal> {
    let mut refusal = Refusal::new(declined.status, declined.sentence());
    refusal.fields = declined.faults;
    if call.request.format != Format::Html {
        return Err(refusal);
    }
    call.log_refusal(&refusal);
    form::reply(call, common, refusal.status, refusal.fields, Some(refusal.sentence), None)
}
