//! `user/admin`: the administrators' overview, and what they close, open, remove or adopt there.

mod view;

use view::look;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::UserCall;
use crate::config::{self, Common};
use crate::server::closing::{self, Act, NotDone, Thing};
use crate::server::nodes::Nodes;
use crate::server::orphans::{self, Removal, Target, adopt};
use crate::server::pages::access;
use crate::server::registry::closed::Kind;
use crate::system::clock;

/// How many orphans a page shows for each host. Programs get all that are recorded.
const UNKNOWN: usize = 50;

/// Serves `user/admin`, for administrators only. Without `do`, shows the overview. With `do`,
/// closes or opens something, or removes or adopts an orphan, and then shows the overview; people
/// are redirected to it (303).
///
/// Fields: `do` (`close`, `open`, `remove` or `adopt`), `token`, `format`. To close or open: `kind`
/// (`portal`, `host` or `name`), `name` (of the host or name), `reason` (shown to users). Closing
/// what is closed changes the reason; opening what is open changes nothing. To remove: `kind`
/// (`domain`, `volume`, `record` or `image`), `host`, `name`; 202 if the host has accepted the work
/// but not finished it. To adopt a machine: `kind=record`, `host`, `name` (its id).
///
/// # Errors
/// 400 for invalid fields, 403 for anyone else, 404 for a host or name that is not in the pool and
/// for something that is not an orphan, 409 for something that must not be removed, 502 if the host
/// can't be used, 503 if the registry stays locked for too long.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["do", "kind", "host", "name", "reason", "token", "format"])?;
    let common = Common::load(&config::directory())?;
    let mut status = 200;
    if call.acts {
        let act = fields.get("do").map(str::trim);
        let is_about_hosts = matches!(act, Some("remove" | "adopt"));
        if is_about_hosts {
            let target = Target::read(fields)?;
            let mut registry = access::registry(call)?;
            let nodes = Nodes::new(&call.config, &call.request.id)?;
            if act == Some("adopt") {
                adopt::adopt(&mut registry, &nodes, &target, call.config.leases.default)?;
            } else if orphans::remove(&mut registry, &nodes, &target)? == Removal::UnderWay {
                status = 202;
            }
        } else {
            let (thing, act) = read(call)?;
            let mut registry = access::registry(call)?;
            closing::carry_out(&mut registry, &common, &thing, &act).map_err(refusal)?;
        }
        if call.request.format == Format::Html {
            return Ok(Reply::see_other(if is_about_hosts { "admin#unknown-title" } else { "admin" }));
        }
    }
    let now = clock::now();
    let most = if call.request.format == Format::Html { UNKNOWN } else { usize::MAX };
    let view = access::read(call, |reader| look(reader, &common, most, now))?;
    call.reply(status, &view)
}

/// Reads what to close or open.
fn read(call: &UserCall<'_>) -> Result<(Thing, Act), Refusal> {
    let fields = &call.request.fields;
    let text = |name| fields.get(name).map(str::trim).unwrap_or_default();
    let close = match text("do") {
        "close" => true,
        "open" => false,
        _ => return Err(Refusal::bad_request("do is close, open, remove or adopt.")),
    };
    if fields.get("host").is_some() {
        return Err(Refusal::bad_request("The field host goes with do=remove. A host is named by name."));
    }
    let kind: Kind =
        text("kind").parse().map_err(|_| Refusal::bad_request("kind is portal, host or name."))?;
    let thing = match kind {
        Kind::Portal if text("name").is_empty() => Thing::Portal,
        Kind::Portal => {
            return Err(Refusal::bad_request("The portal has no name. Leave the field name out."));
        }
        Kind::Host => Thing::Host(fields.required("name")?),
        Kind::Name => Thing::Name(fields.required("name")?),
    };
    if !close {
        return Ok((thing, Act::Open));
    }
    if text("reason").is_empty() {
        let why = match kind {
            Kind::Portal => {
                "Say why the portal is closed, and until when: everybody reads it (the field reason)."
            }
            Kind::Host => {
                "Say why the host gets no new machines: who wants it reads that (the field reason)."
            }
            Kind::Name => "Say why the name is not given out: who wants it reads that (the field reason).",
        };
        return Err(Refusal::bad_request(why));
    }
    Ok((thing, Act::Close(fields.required("reason")?)))
}

fn refusal(why: NotDone) -> Refusal {
    match why {
        NotDone::NotInPool(thing) => {
            let section = if thing.kind() == Kind::Host { "PhysicalHostsPool" } else { "VirtualHostsPool" };
            let (kind, name) = (thing.kind().as_str(), thing.name());
            Refusal::not_found(format!("There is no {kind} {name} in [{section}] of common.cfg."))
        }
        NotDone::Registry(error) => error.into(),
    }
}
