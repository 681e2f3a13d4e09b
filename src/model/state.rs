//! The states of a machine, and the one table that says which event leads from which to which.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a machine is in its life, under the names that vGrid has always used on pages and wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Recorded, on its way to a node or being made there.
    Deploying,
    /// Running, as far as the server knows.
    Deployed,
    /// Being shut down by its owner's wish; its disk stays.
    Stopping,
    /// Shut down by its owner's wish, disk kept; keeps its slot and name.
    Stopped,
    /// On its way from stopped to running.
    Starting,
    /// On its way from running to running.
    Rebooting,
    /// Its disk is being saved as an image; it is shut down meanwhile.
    Saving,
    /// Its lease is over: stopped, disk kept, until its grace is over.
    Expired,
    /// On its way out.
    Terminating,
    /// A deploy or a terminate went wrong; keeps its slot and name until it is terminated.
    Failed,
    /// Gone. Nothing of it is left but its history.
    NotDeployed,
}

impl State {
    /// All states.
    pub const ALL: [Self; 11] = [
        Self::Deploying,
        Self::Deployed,
        Self::Stopping,
        Self::Stopped,
        Self::Starting,
        Self::Rebooting,
        Self::Saving,
        Self::Expired,
        Self::Terminating,
        Self::Failed,
        Self::NotDeployed,
    ];

    /// The state's name on the wire, on pages and in the registry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploying => "deploying",
            Self::Deployed => "deployed",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Rebooting => "rebooting",
            Self::Saving => "saving",
            Self::Expired => "expired",
            Self::Terminating => "terminating",
            Self::Failed => "failed",
            Self::NotDeployed => "notDeployed",
        }
    }

    /// The state with that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether something is under way that will end by itself.
    pub fn is_transitional(self) -> bool {
        matches!(
            self,
            Self::Deploying
                | Self::Stopping
                | Self::Starting
                | Self::Rebooting
                | Self::Saving
                | Self::Terminating
        )
    }

    /// Whether the machine holds a slot of its host and its virtual host name.
    pub fn is_live(self) -> bool {
        self != Self::NotDeployed
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The node reports a stage of its work.
    Progress,
    /// The node reports that the machine runs.
    Deployed,
    /// The node reports that the machine is stopped.
    Stopped,
    /// The node, or the way to it, failed.
    Failed,
    /// Its owner wants it stopped.
    Stop,
    /// Its owner wants it started again, or its lease was extended.
    Start,
    /// Its owner wants it shut down and started.
    Reboot,
    /// Its owner wants its disk saved as an image.
    Save,
    /// The lease of a machine that is stopped has ended.
    Expire,
    /// Somebody who may wants it gone; also the end of the grace period.
    Terminate,
    /// The node reports that nothing of it is left.
    Terminated,
    /// It never reached a node, or an administrator says that nothing of it is left.
    Forget,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 12] = [
        Self::Progress,
        Self::Deployed,
        Self::Stopped,
        Self::Failed,
        Self::Stop,
        Self::Start,
        Self::Reboot,
        Self::Save,
        Self::Expire,
        Self::Terminate,
        Self::Terminated,
        Self::Forget,
    ];
}

/// The state that `event` leads to from `state`; `None` if it changes nothing there (a late or
/// repeated message, for instance).
pub fn next(state: State, event: Event) -> Option<State> {
    use Event as E;
    use State as S;
    match (state, event) {
        (state, E::Progress) if state.is_transitional() => Some(state),
        // From stopped and deployed: the node's word about an order that the server had given up.
        // Nothing is lost when a stop, a start or a reboot fails: the machine is again what it was, and its owner can
        // try once more.
        (S::Stopping | S::Starting | S::Rebooting | S::Saving | S::Expired | S::Deployed, E::Stopped)
        | (S::Starting | S::Saving, E::Failed) => Some(S::Stopped),
        (S::Deploying | S::Terminating, E::Failed) => Some(S::Failed),
        // From saving: its node did not take the order, and it still runs.
        (S::Deploying | S::Starting | S::Rebooting | S::Saving | S::Stopped, E::Deployed)
        | (S::Stopping | S::Rebooting, E::Failed) => Some(S::Deployed),
        // Again, for a node that lost the first order.
        (S::Deployed | S::Stopping, E::Stop) => Some(S::Stopping),
        (S::Stopped | S::Expired | S::Starting, E::Start) => Some(S::Starting),
        (S::Deployed | S::Rebooting, E::Reboot) => Some(S::Rebooting),
        (S::Deployed | S::Stopped | S::Expired | S::Saving, E::Save) => Some(S::Saving),
        (S::Stopped, E::Expire) => Some(S::Expired),
        (state, E::Terminate) if state.is_live() => Some(S::Terminating),
        (S::Terminating, E::Terminated) => Some(S::NotDeployed),
        (state, E::Forget) if state.is_live() => Some(S::NotDeployed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_one_name() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }

    #[test]
    fn nothing_comes_back_from_the_dead() {
        for event in Event::ALL {
            assert_eq!(next(State::NotDeployed, event), None);
        }
    }

    #[test]
    fn every_live_state_can_be_left_by_its_user() {
        for state in State::ALL.into_iter().filter(|s| s.is_live()) {
            assert_eq!(next(state, Event::Terminate), Some(State::Terminating), "{state}");
        }
    }

    #[test]
    fn what_goes_wrong_on_the_way_costs_no_disk() {
        for (state, back) in [
            (State::Stopping, State::Deployed),
            (State::Starting, State::Stopped),
            (State::Rebooting, State::Deployed),
            (State::Saving, State::Stopped),
        ] {
            assert_eq!(next(state, Event::Failed), Some(back));
        }
    }

    #[test]
    fn a_late_report_changes_nothing() {
        assert_eq!(next(State::Terminating, Event::Deployed), None);
        assert_eq!(next(State::Deployed, Event::Progress), None);
        assert_eq!(next(State::Deployed, Event::Failed), None);
        assert_eq!(next(State::Failed, Event::Deployed), None);
    }
}
