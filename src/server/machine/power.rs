//! The effect of an order on a machine in each of its states.

use super::life;
use crate::model::stage::Order;
use crate::model::state::{self, State};

/// The effect of an order on a machine in its current state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// The order must be sent to the host.
    Tell,
    /// The machine is already in the requested state; the sentence says so.
    Already(&'static str),
    /// The order is not possible now; the sentence says why, and what is possible instead.
    Not(String),
}

/// Returns why a machine in this state can only be removed, or `None` if it can still be used.
pub fn past_use(state: State) -> Option<&'static str> {
    match state {
        State::Terminating => Some("This machine is being removed."),
        State::Failed => {
            Some("This machine has failed; its page says why. Terminate it, and deploy another one.")
        }
        State::NotDeployed => Some("This machine is gone."),
        _ => None,
    }
}

/// Returns the effect of `order` in a state. The table of states decides; this function only words
/// the answer.
pub fn meaning(order: Order, state: State) -> Meaning {
    // An expired machine is started by extending its lease.
    if state != State::Expired && life::event(order).is_some_and(|event| state::next(state, event).is_some())
    {
        return Meaning::Tell;
    }
    let wait = |doing: &str| {
        Meaning::Not(format!("This machine is being {doing}. Wait until that is over, and try again."))
    };
    match (state, order) {
        (State::Stopped, Order::Stop) => Meaning::Already("This machine is stopped already."),
        (State::Deployed, Order::Start) => Meaning::Already("This machine runs already."),
        (State::Stopped, _) => Meaning::Not("This machine is stopped. Start it instead.".to_owned()),
        (State::Deploying, _) => wait("deployed"),
        (State::Stopping, _) => wait("stopped"),
        (State::Starting, _) => wait("started"),
        (State::Rebooting, _) => wait("rebooted"),
        (State::Deployed, _) => Meaning::Not("This machine runs.".to_owned()),
        (State::Expired, _) => Meaning::Not(
            "The lease of this machine has ended. It is stopped, and only its disk is still kept. Extend its lease."
                .to_owned(),
        ),
        (State::Saving, _) => wait("saved as an image"),
        (State::Resizing, _) => wait("given other sizes"),
        (State::Terminating | State::Failed | State::NotDeployed, _) => {
            Meaning::Not(past_use(state).unwrap_or_default().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [Order; 3] = [Order::Stop, Order::Start, Order::Reboot];

    #[test]
    fn each_order_is_for_its_states() {
        for order in ORDERS {
            for state in State::ALL {
                let tell = matches!(
                    (order, state),
                    (Order::Stop, State::Deployed | State::Stopping)
                        | (Order::Start, State::Stopped | State::Starting)
                        | (Order::Reboot, State::Deployed | State::Rebooting)
                );
                let already =
                    matches!((order, state), (Order::Stop, State::Stopped) | (Order::Start, State::Deployed));
                match meaning(order, state) {
                    Meaning::Tell => assert!(tell, "{order} while {state}"),
                    Meaning::Already(_) => assert!(already, "{order} while {state}"),
                    Meaning::Not(sentence) => {
                        assert!(!tell && !already, "{order} while {state}");
                        assert!(sentence.ends_with('.') && sentence.contains(' '), "{sentence}");
                    }
                }
            }
        }
    }
}
