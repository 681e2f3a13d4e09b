//! Decides when the owner of a lease is notified, when the machine is stopped, and when its disk is
//! removed. Pure.
//!
//! Nothing is removed without a notice and the full grace period after it, whatever the clock does.
//! So two clocks count: the wall clock, which people read, and the portal's own ([`Life`]), which
//! stands still while the portal is off and when the wall clock jumps.

use crate::config::Leases;
use crate::model::lease::{Lease, Moment, Term};
use crate::model::state::State;
use crate::server::registry::notice::Given;
use crate::server::registry::upkeep::Life;
use crate::server::registry::vm::{OnNode, Vm};
use crate::server::upkeep::plan::{Action, ENDED, warning};

/// Whether mail to an owner has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mail {
    /// The outbox has none, or mail is off.
    Left,
    /// Some is in the outbox.
    Waits,
    /// The owner has no address.
    NoAddress,
}

/// Returns what has to be done about a machine's lease, if anything. `given` looks up when the
/// owner was given a notice about this very lease; `mail` returns whether mail to the owner has
/// left.
pub fn due<E>(
    vm: &Vm,
    now: Moment,
    life: Life,
    leases: &Leases,
    given: impl Fn(&str) -> Result<Option<Given>, E>,
    mail: impl FnOnce() -> Result<Mail, E>,
) -> Result<Option<Action>, E> {
    let Some(end) = vm.expires else { return Ok(None) };
    let lived_since = |given: Given| life.lived.saturating_sub(given.lived);
    match vm.state {
        State::Deployed | State::Stopped => {
            let left = end.since(now);
            let mut notices = notices(vm.lease, leases);
            // Shortest first: the first one that is due is the most urgent and replaces the longer
            // ones.
            let Some(before) = notices.find(|before| left <= before.seconds()) else {
                return Ok((left <= 0).then(|| over(vm.state)));
            };
            let Some(told) = given(&warning(before))? else { return Ok(Some(Action::Warn(before))) };
            // An owner who was notified late, because the portal was off, still gets the full time
            // of the shortest notice.
            let in_time = lived_since(told) >= before.seconds();
            Ok((left <= 0 && in_time).then(|| over(vm.state)))
        }
        State::Expired if end > now => Ok(Some(Action::BringBack)),
        State::Expired => {
            let told = match (given(ENDED)?, mail()?) {
                // The first time, the notice is attempted, and administrators learn that it failed.
                (None, Mail::NoAddress) if vm.deletion.is_some() => return Ok(Some(Action::Hold)),
                (None, _) => return Ok(Some(Action::TellEnded)),
                (Some(_), Mail::NoAddress) => return Ok(Some(Action::Hold)),
                (Some(_), Mail::Waits) => return Ok(Some(Action::PutOff)),
                (Some(told), Mail::Left) => told,
            };
            let full = lived_since(told) >= leases.grace.seconds();
            let day = vm.deletion.is_none_or(|deletion| deletion <= now);
            Ok((full && day).then_some(Action::Delete))
        }
        // It has nothing worth keeping: it never ran, or it was to be removed.
        State::Failed if end.plus_seconds(leases.grace.seconds()) <= now => {
            Ok(Some(if vm.on_node == OnNode::No { Action::Forget } else { Action::Delete }))
        }
        _ => Ok(None),
    }
}

/// Returns what the end of a lease means for a machine that runs or is stopped.
fn over(state: State) -> Action {
    if state == State::Stopped { Action::Expire } else { Action::StopForLease }
}

/// Returns the notices for a lease, shortest first: only those shorter than the lease itself.
fn notices(lease: Term, leases: &Leases) -> impl Iterator<Item = Lease> {
    leases.notices.iter().copied().filter(move |before| Term::For(*before) < lease)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;
    use crate::model::state::Event;
    use crate::server::registry::vm::tests::entered;
    use crate::server::registry::{Registry, RegistryError};

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    const START: Moment = Moment::from_unix(1_000_000);

    /// A machine, and a portal whose upkeep actions on it.
    struct World {
        vm: Vm,
        now: Moment,
        life: Life,
        leases: Leases,
        given: RefCell<BTreeMap<String, Given>>,
        mail: Mail,
        done: Vec<(i64, Action)>,
    }

    impl World {
        /// A machine that has just been deployed, with this lease.
        fn new(lease: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
            let vm = entered(&mut registry, "alice", "node1", "vm1");
            let now = START;
            let vm: Result<_, RegistryError> = registry.write_at(now, |writer| {
                writer.advance(&vm, Event::Deployed, |_| {})?;
                writer.set_lease(vm.id, lease.parse().unwrap(), now)?;
                writer.vm(vm.id)
            });
            Self {
                vm: vm.unwrap().unwrap(),
                now,
                life: Life { last: Some(now), lived: 0 },
                leases: Leases::default(),
                given: RefCell::default(),
                mail: Mail::Left,
                done: Vec::new(),
            }
        }

        /// Runs upkeep `passed` seconds later, of which the portal was up for `lived`.
        fn run(&mut self, passed: i64, lived: i64) {
            self.now = self.now.plus_seconds(passed);
            self.life = Life { last: Some(self.now), lived: self.life.lived + lived };
            let given = |kind: &str| Ok::<_, Infallible>(self.given.borrow().get(kind).copied());
            let Ok(due) = due(&self.vm, self.now, self.life, &self.leases, given, || Ok(self.mail));
            let Some(action) = due else { return };
            let note = Given { at: self.now, lived: self.life.lived };
            match &action {
                Action::Warn(before) => drop(self.given.borrow_mut().insert(warning(*before), note)),
                Action::TellEnded | Action::PutOff | Action::Hold => {
                    // An owner without an address was not notified.
                    if self.mail == Mail::NoAddress {
                        self.given.borrow_mut().remove(ENDED);
                    } else {
                        self.given.borrow_mut().insert(ENDED.to_owned(), note);
                    }
                    self.vm.deletion = Some(self.now.plus_seconds(self.leases.grace.seconds()));
                }
                // As if the host were done at once.
                Action::StopForLease => self.vm.state = State::Stopped,
                Action::Expire => self.vm.state = State::Expired,
                Action::BringBack => self.vm.state = State::Deployed,
                Action::Delete => self.vm.state = State::NotDeployed,
                other => panic!("{other:?}"),
            }
            if self.done.last().is_none_or(|(_, last)| *last != action) {
                self.done.push((self.now.since(START) / HOUR, action));
            }
        }

        /// Runs upkeep every hour, `many` times.
        fn hours(&mut self, many: i64) {
            for _ in 0..many {
                self.run(HOUR, HOUR);
            }
        }

        fn told(&self) -> Vec<String> {
            self.done.iter().map(|(hour, action)| format!("{hour} {action:?}")).collect()
        }
    }

    fn lease(text: &str) -> Lease {
        text.parse().unwrap()
    }

    #[test]
    fn a_lease_runs_through_all_it_has() {
        let mut world = World::new("7d");
        world.hours(16 * 24);
        let actions: Vec<_> = world.done.iter().map(|(hour, action)| (*hour, action.clone())).collect();
        let end = 7 * 24;
        assert_eq!(
            actions,
            [
                (end - 72, Action::Warn(lease("3d"))),
                (end - 24, Action::Warn(lease("1d"))),
                (end - 2, Action::Warn(lease("2h"))),
                (end, Action::StopForLease),
                (end + 1, Action::Expire),
                (end + 2, Action::TellEnded),
                (end + 2 + 7 * 24, Action::Delete),
            ],
            "{:?}",
            world.told()
        );
    }

    #[test]
    fn a_short_lease_has_the_notices_that_fit() {
        let mut world = World::new("90m");
        world.hours(2);
        assert_eq!(world.done, [(2, Action::StopForLease)]);
        let mut world = World::new("5h");
        world.hours(5);
        assert_eq!(world.done, [(3, Action::Warn(lease("2h"))), (5, Action::StopForLease)]);
    }

    #[test]
    fn sixty_days_off_cost_a_notice_and_the_grace_is_full() {
        let mut world = World::new("7d");
        world.hours(3);
        world.run(60 * DAY, 0);
        assert_eq!(world.done.pop().unwrap().1, Action::Warn(lease("2h")), "told, not stopped");
        world.hours(1);
        assert!(world.done.is_empty());
        world.hours(4);
        let actions: Vec<_> = world.done.iter().map(|(_, action)| action.clone()).collect();
        assert_eq!(actions, [Action::StopForLease, Action::Expire, Action::TellEnded]);
        // Off again during the grace period, which continues where it was.
        world.run(60 * DAY, 0);
        world.hours(7 * 24 - 2);
        assert_eq!(world.vm.state, State::Expired);
        world.hours(3);
        assert_eq!(world.vm.state, State::NotDeployed);
    }

    #[test]
    fn a_clock_that_jumps_removes_nothing() {
        let mut world = World::new("7d");
        world.hours(3);
        // A year ahead, in every run.
        for _ in 0..50 {
            world.run(365 * DAY, 0);
        }
        assert_eq!(
            world.done.iter().map(|(_, action)| action).collect::<Vec<_>>(),
            [&Action::Warn(lease("2h"))]
        );
        assert_eq!(world.vm.state, State::Deployed);
        // It expired by a wrong clock, which is then set right.
        world.hours(4);
        assert_eq!(world.vm.state, State::Expired);
        world.run(-50 * 365 * DAY, 0);
        assert_eq!(world.done.last().unwrap().1, Action::BringBack);
    }

    #[test]
    fn the_grace_begins_when_the_mail_has_left() {
        let mut world = World::new("1h");
        world.hours(3);
        assert_eq!(world.done.last().unwrap().1, Action::TellEnded);
        world.mail = Mail::Waits;
        world.hours(30 * 24);
        assert_eq!(world.vm.state, State::Expired);
        world.mail = Mail::Left;
        world.hours(7 * 24 - 1);
        assert_eq!(world.vm.state, State::Expired);
        world.hours(2);
        assert_eq!(world.vm.state, State::NotDeployed);
    }

    #[test]
    fn the_grace_begins_when_there_is_somebody_to_tell() {
        let mut world = World::new("1h");
        world.mail = Mail::NoAddress;
        world.hours(30 * 24);
        assert_eq!((world.vm.state, &world.done.last().unwrap().1), (State::Expired, &Action::Hold));
        world.mail = Mail::Left;
        world.hours(1);
        assert_eq!(world.done.last().unwrap().1, Action::TellEnded, "told first");
        world.hours(7 * 24 - 1);
        assert_eq!(world.vm.state, State::Expired);
        world.hours(2);
        assert_eq!(world.vm.state, State::NotDeployed);
    }

    #[test]
    fn what_has_no_end_is_left_alone() {
        let mut world = World::new("never");
        world.run(3650 * DAY, HOUR);
        assert!(world.done.is_empty());
    }
}
