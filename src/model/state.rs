//! The states of a machine, and the single table of transitions between them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a machine, under its established name on pages and on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Recorded, and being sent to a node or created there.
    Deploying,
    /// Running, as far as the server knows.
    Deployed,
    /// Being shut down at its owner's request; its disk is kept.
    Stopping,
    /// Shut down at its owner's request; keeps its disk, slot and name.
    Stopped,
    /// Being started from the stopped state.
    Starting,
    /// Being shut down and started again.
    Rebooting,
    /// Shut down while its disk is being saved as an image.
    Saving,
    /// Stopped, and being given other sizes.
    Resizing,
    /// Stopped because its lease has expired; its disk is kept until the grace period ends.
    Expired,
    /// Being removed.
    Terminating,
    /// A deploy or a termination failed; keeps its slot and name until it is terminated.
    Failed,
    /// Removed. Only its history is left.
    NotDeployed,
}

impl State {
    /// All states.
    pub const ALL: [Self; 12] = [
        Self::Deploying,
        Self::Deployed,
        Self::Stopping,
        Self::Stopped,
        Self::Starting,
        Self::Rebooting,
        Self::Saving,
        Self::Resizing,
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
            Self::Resizing => "resizing",
            Self::Expired => "expired",
            Self::Terminating => "terminating",
            Self::Failed => "failed",
            Self::NotDeployed => "notDeployed",
        }
    }

    /// Returns the state with that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Returns whether an operation is in progress that will end by itself.
    pub fn is_transitional(self) -> bool {
        matches!(
            self,
            Self::Deploying
                | Self::Stopping
                | Self::Starting
                | Self::Rebooting
                | Self::Saving
                | Self::Resizing
                | Self::Terminating
        )
    }

    /// Returns whether the machine occupies a slot of its host and its virtual host name.
    pub fn is_live(self) -> bool {
        self != Self::NotDeployed
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The node reports progress.
    Progress,
    /// The node reports that the machine is running.
    Deployed,
    /// The node reports that the machine is stopped.
    Stopped,
    /// The node failed or could not be reached.
    Failed,
    /// The owner wants the machine stopped.
    Stop,
    /// The owner wants it started again, or its lease was extended.
    Start,
    /// The owner wants it shut down and started again.
    Reboot,
    /// The owner wants its disk saved as an image.
    Save,
    /// The owner wants it to have other sizes.
    Resize,
    /// The lease of a stopped machine has expired.
    Expire,
    /// An authorized user wants it removed; also the end of the grace period.
    Terminate,
    /// The node reports that nothing of it is left.
    Terminated,
    /// It never reached a node, or an administrator states that nothing of it is left.
    Forget,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 13] = [
        Self::Progress,
        Self::Deployed,
        Self::Stopped,
        Self::Failed,
        Self::Stop,
        Self::Start,
        Self::Reboot,
        Self::Save,
        Self::Resize,
        Self::Expire,
        Self::Terminate,
        Self::Terminated,
        Self::Forget,
    ];
}

/// Returns the state that `event` leads to from `state`; `None` if it has no effect there (such as
/// a late or repeated message).
pub fn next(state: State, event: Event) -> Option<State> {
    use Event as E;
    use State as S;
    match (state, event) {
        (state, E::Progress) if state.is_transitional() => Some(state),
        // From stopped and deployed: a late report about an order that the server had given up. A
        // failed stop, start or reboot loses nothing: the machine returns to its previous state,
        // and its owner can try again.
        (
            S::Stopping | S::Starting | S::Rebooting | S::Saving | S::Resizing | S::Expired | S::Deployed,
            E::Stopped,
        )
        | (S::Starting | S::Saving | S::Resizing, E::Failed) => Some(S::Stopped),
        (S::Deploying | S::Terminating, E::Failed) => Some(S::Failed),
        // From saving: the node refused the order, and the machine is still running.
        (S::Deploying | S::Starting | S::Rebooting | S::Saving | S::Stopped, E::Deployed)
        | (S::Stopping | S::Rebooting, E::Failed) => Some(S::Deployed),
        // Repeated, for a node that lost the first order.
        (S::Deployed | S::Stopping, E::Stop) => Some(S::Stopping),
        (S::Stopped | S::Expired | S::Starting, E::Start) => Some(S::Starting),
        (S::Deployed | S::Rebooting, E::Reboot) => Some(S::Rebooting),
        (S::Deployed | S::Stopped | S::Expired | S::Saving, E::Save) => Some(S::Saving),
        (S::Stopped | S::Resizing, E::Resize) => Some(S::Resizing),
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
    fn a_removed_machine_never_changes_state() {
        for event in Event::ALL {
            assert_eq!(next(State::NotDeployed, event), None);
        }
    }

    #[test]
    fn a_user_can_terminate_a_machine_in_any_live_state() {
        for state in State::ALL.into_iter().filter(|s| s.is_live()) {
            assert_eq!(next(state, Event::Terminate), Some(State::Terminating), "{state}");
        }
    }

    #[test]
    fn a_failed_transition_never_loses_the_disk() {
        for (state, back) in [
            (State::Stopping, State::Deployed),
            (State::Starting, State::Stopped),
            (State::Rebooting, State::Deployed),
            (State::Saving, State::Stopped),
            (State::Resizing, State::Stopped),
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
