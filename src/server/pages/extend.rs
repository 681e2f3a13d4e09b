//! `user/extend`: sets a new lease for a machine, and protects it against termination by hand.

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{Data, UserCall, View, WithBanner};
use crate::config::{self, Common, Leases};
use crate::model::lease::{Moment, Term};
use crate::model::stage::Order;
use crate::server::audit;
use crate::server::machine::life;
use crate::server::machine::orders;
use crate::server::machine::power;
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::target::Target;
use crate::server::pages::view::{MachineView, ordered};
use crate::server::registry::Writer;
use crate::server::registry::event::Actor;
use crate::server::registry::vm::Vm;
use crate::system::log::Level;

/// The confirmation page.
#[derive(Debug, Serialize)]
struct ExtendView {
    machine: MachineView,
    /// The value of the field for the lease.
    value: String,
    maximum_lease: String,
    grace: String,
    /// Why nothing was done.
    message: Option<String>,
    /// Whether the page asks to confirm a shorter lease.
    confirm: bool,
    /// Why the lease can't be set in this state.
    idle: Option<&'static str>,
}

impl View for ExtendView {
    const TEMPLATE: &'static str = "extend.html";
}

impl Data for ExtendView {
    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}

/// The requested changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LeaseRequest {
    /// The lease, counted from now; `None` leaves it as it is.
    term: Option<Term>,
    /// Whether it may become shorter.
    confirmed: bool,
    /// Whether to protect it; `None` leaves it as it is.
    protected: Option<bool>,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Done.
    Done(Vm),
    /// Done, and the machine's host must be told to start it.
    Start(Vm),
    /// Nothing was done, because the lease would become shorter.
    Confirm(Vm, String),
}

/// Serves `user/extend`.
///
/// Fields: `id`, or as a convenience for scripts `vmHostname` (the live machine with that name);
/// `expiryTime` (such as `7d`, counted from now; `never` for administrators; empty: the length of
/// the last lease); `confirm=1`, which is required to make a lease shorter; `protect` (`1` or `0`)
/// turns protection against termination by hand on or off, and leaves the lease alone unless
/// `expiryTime` is given too; `token`, `format`. A machine whose lease has ended is started again,
/// unless it had been stopped before.
///
/// # Errors
/// 400 for an invalid lease or one that is too long, 403 for other people's machines, 404, 409 if
/// the lease would become shorter without confirmation or if the machine has failed, is being
/// removed or is gone, 503. If the lease was extended but the host did not start the machine,
/// programs get 409 or 502 with the reason.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["id", "vmHostname", "expiryTime", "confirm", "protect", "token", "format"])?;
    let target = Target::read(call)?;
    let common = Common::load(&config::directory())?;
    if !call.acts {
        let vm = access::read(call, |reader| target.find(call, reader))?;
        return call.reply(200, &vm.map(|vm| view(call, &common, &vm, None, false)));
    }
    let request = read_request(call)?;
    // Before anything is recorded: if this fails, no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let step = registry.write(|writer| {
        let vm = target.find(call, writer.reader())?;
        apply(writer, &vm, request, &call.config.leases, call.administrator)
    })?;
    match step {
        Step::Confirm(vm, sentence) => {
            if call.request.format == Format::Html {
                let content = view(call, &common, &vm, Some(sentence), true);
                return call.reply(409, &WithBanner { content, banner: None });
            }
            Err(Refusal::conflict(format!("{sentence} Give confirm=1 to have it so.")))
        }
        Step::Done(vm) => {
            log(&vm, registry.actor());
            ordered(call, &common, &vm, None)
        }
        Step::Start(vm) => {
            log(&vm, registry.actor());
            let answer = orders::tell(&nodes, &vm, Order::Start);
            let post = Post::new(&call.config);
            let (vm, fault) = orders::settle(&mut registry, &post, vm, Order::Start, answer)?;
            ordered(call, &common, &vm, fault.as_ref())
        }
    }
}

fn log(vm: &Vm, actor: &Actor) {
    let end = vm.expires.map_or_else(|| "never".to_owned(), Moment::rfc3339);
    let protected = if vm.protected { ", protected" } else { "" };
    audit::record(Level::Info, "lease.changed", vm, actor, &format!("ends {end}{protected}"));
}

fn view(call: &UserCall<'_>, common: &Common, vm: &Vm, message: Option<String>, confirm: bool) -> ExtendView {
    let given = call.request.fields.get("expiryTime").map(str::trim).filter(|text| !text.is_empty());
    ExtendView {
        machine: MachineView::new(vm, common, call.administrator),
        value: given.map_or_else(|| usual(vm, &call.config.leases).to_string(), str::to_owned),
        maximum_lease: call.config.leases.maximum.to_string(),
        grace: call.config.leases.grace.in_words(),
        message,
        confirm,
        idle: power::past_use(vm.state),
    }
}

/// Returns the lease for a request that gives none: as long as the last one, up to the maximum.
fn usual(vm: &Vm, leases: &Leases) -> Term {
    match vm.lease {
        Term::Never => Term::Never,
        term @ Term::For(_) => term.min(Term::For(leases.maximum)),
    }
}

fn read_request(call: &UserCall<'_>) -> Result<LeaseRequest, Refusal> {
    let fields = &call.request.fields;
    let switch = |name: &'static str| match fields.get(name) {
        None | Some("") => Ok(None),
        Some("0") => Ok(Some(false)),
        Some("1") => Ok(Some(true)),
        Some(_) => Err(Refusal::bad_request(format!("{name} is 1 or 0."))),
    };
    Ok(LeaseRequest {
        term: fields.optional("expiryTime")?,
        confirmed: switch("confirm")? == Some(true),
        protected: switch("protect")?,
    })
}

/// Applies the changes, in a transaction.
fn apply(
    writer: &Writer<'_>,
    vm: &Vm,
    request: LeaseRequest,
    leases: &Leases,
    administrator: bool,
) -> Result<Step, Refusal> {
    let at = writer.at();
    if let Some(sentence) = power::past_use(vm.state) {
        return Err(Refusal::conflict(sentence));
    }
    // Before anything is changed: all or nothing.
    let term = match request.term {
        Some(term) => Some(permitted(term, leases, administrator)?),
        None if request.protected.is_some() => None,
        None => Some(permitted(usual(vm, leases), leases, administrator || vm.lease == Term::Never)?),
    };
    if let Some(end) = term.map(|term| term.end(at.moment))
        && !request.confirmed
        && is_sooner(end, vm.expires)
    {
        let shown = |end: Option<Moment>| end.map_or_else(|| "never".to_owned(), |end| end.to_string());
        let sentence = format!(
            "The lease would become shorter: it would end {} and not {}.",
            shown(end),
            shown(vm.expires)
        );
        return Ok(Step::Confirm(vm.clone(), sentence));
    }
    let mut vm = vm.clone();
    if let Some(change) = request.protected.and_then(|protected| life::protected(&vm, protected)) {
        vm = writer.apply(&vm, change)?.unwrap_or(vm);
    }
    let Some(term) = term else { return Ok(Step::Done(vm)) };
    let change = life::extended(&vm, term, at);
    let starts = change.next.is_some();
    let vm = writer.apply(&vm, change)?.unwrap_or(vm);
    Ok(if starts { Step::Start(vm) } else { Step::Done(vm) })
}

/// Checks that the caller may set this lease.
fn permitted(term: Term, leases: &Leases, administrator: bool) -> Result<Term, Refusal> {
    if administrator || term <= Term::For(leases.maximum) {
        return Ok(term);
    }
    Err(Refusal::bad_request(match term {
        Term::Never => "Only an administrator can set a lease that never ends.".to_owned(),
        Term::For(_) => {
            format!("At most {} can be asked for. Extend it again when that is over.", leases.maximum)
        }
    }))
}

/// Returns whether one end of a lease is earlier than another; never is the latest.
fn is_sooner(end: Option<Moment>, than: Option<Moment>) -> bool {
    match (end, than) {
        (Some(end), Some(than)) => end < than,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::{Event, State};
    use crate::server::machine::fixture::OneMachine;
    use crate::server::registry::RegistryError;
    use crate::server::registry::vm::Wanted;

    const NOW: Moment = Moment::from_unix(1_000_000);

    impl OneMachine {
        /// A running machine with ten days of lease left.
        fn leased() -> Self {
            let mut one = Self::running();
            let set: Result<_, RegistryError> =
                one.registry.write(|writer| writer.set_lease(one.vm.id, "10d".parse().unwrap(), NOW));
            set.unwrap();
            one.reload();
            one
        }

        fn apply(&mut self, term: &str, confirmed: bool, administrator: bool) -> Result<Step, Refusal> {
            let term = (!term.is_empty()).then(|| term.parse().unwrap());
            self.request(LeaseRequest { term, confirmed, protected: None }, administrator)
        }

        fn request(&mut self, request: LeaseRequest, administrator: bool) -> Result<Step, Refusal> {
            let leases = Leases::default();
            let step = self
                .registry
                .write_at(NOW, |writer| apply(writer, &self.vm, request, &leases, administrator));
            self.reload();
            step
        }

        fn days_left(&self) -> Option<i64> {
            self.vm.expires.map(|end| end.since(NOW) / 86_400)
        }
    }

    #[test]
    fn a_lease_is_counted_from_now_and_has_a_maximum() {
        let mut one = OneMachine::leased();
        assert!(matches!(one.apply("20d", false, false), Ok(Step::Done(_))));
        assert_eq!(one.days_left(), Some(20));
        assert!(matches!(one.apply("", false, false), Ok(Step::Done(_))), "as long as the last time");
        assert_eq!(one.days_left(), Some(20));
        assert_eq!(one.apply("91d", false, false).unwrap_err().status, 400);
        assert_eq!(one.apply("never", false, false).unwrap_err().status, 400);
        assert_eq!(one.days_left(), Some(20));
        assert!(matches!(one.apply("400d", false, true), Ok(Step::Done(_))));
        assert!(matches!(one.apply("never", false, true), Ok(Step::Done(_))));
        assert_eq!(one.days_left(), None);
        // An owner who asks for the default keeps what an administrator gave.
        assert!(matches!(one.apply("", false, false), Ok(Step::Done(_))));
        assert_eq!(one.days_left(), None);
    }

    #[test]
    fn no_lease_becomes_shorter_unasked() {
        let mut one = OneMachine::leased();
        assert!(matches!(one.apply("3d", false, false), Ok(Step::Confirm(..))));
        assert_eq!(one.days_left(), Some(10));
        assert!(matches!(one.apply("3d", true, false), Ok(Step::Done(_))));
        assert_eq!(one.days_left(), Some(3));
        one.apply("never", false, true).unwrap();
        assert!(matches!(one.apply("80d", false, false), Ok(Step::Confirm(..))), "never comes last");
    }

    #[test]
    fn what_has_expired_becomes_what_it_was() {
        for wanted in [Wanted::Running, Wanted::Stopped] {
            let mut one = OneMachine::leased();
            one.happens(Event::Stopped, |vm| vm.wanted = wanted);
            one.happens(Event::Expire, |vm| vm.deletion = Some(NOW));
            let step = one.apply("5d", true, false).unwrap();
            assert_eq!((one.days_left(), one.vm.deletion), (Some(5), None));
            match wanted {
                Wanted::Running => {
                    assert!(matches!(step, Step::Start(_)));
                    assert_eq!((one.vm.state, one.vm.order), (State::Starting, Order::Start));
                }
                Wanted::Stopped => {
                    assert!(matches!(step, Step::Done(_)));
                    assert_eq!(one.vm.state, State::Stopped);
                }
            }
        }
    }

    #[test]
    fn a_machine_is_guarded_and_its_lease_left_alone() {
        let mut one = OneMachine::leased();
        for protected in [true, false] {
            let request = LeaseRequest { term: None, confirmed: false, protected: Some(protected) };
            assert!(matches!(one.request(request, false), Ok(Step::Done(_))));
            assert_eq!((one.vm.protected, one.days_left()), (protected, Some(10)));
        }
        // All or nothing.
        let request =
            LeaseRequest { term: Some("1d".parse().unwrap()), confirmed: false, protected: Some(true) };
        assert!(matches!(one.request(request, false), Ok(Step::Confirm(..))));
        assert!(!one.vm.protected);
    }

    #[test]
    fn what_is_on_its_way_out_gets_no_lease() {
        let mut one = OneMachine::leased();
        one.happens(Event::Terminate, |_| {});
        assert_eq!(one.apply("20d", false, true).unwrap_err().status, 409);
        one.happens(Event::Failed, |_| {});
        assert_eq!(one.apply("20d", false, true).unwrap_err().status, 409);
        one.happens(Event::Forget, |_| {});
        assert_eq!(one.apply("20d", false, true).unwrap_err().status, 409);
    }
}
