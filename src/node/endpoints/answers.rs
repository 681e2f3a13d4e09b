//! Whether something answers at an address.
//!
//! On a network of the host's own, whatever has an address first tells its hardware address, by its
//! kernel and at once (ARP, RFC 826); Linux asks a second time only after a second (`retrans_time_ms`,
//! arp(7)). So if nobody has done that after [`SHORT`], nobody answers. Behind a router, or where a
//! hardware address is known, only a ping of [`LONG`] tells.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::system::exec::{self, ExecError, Run};
use crate::system::log::{self, Level};

/// How long a machine on the host's own network may take to tell its hardware address. An idle one
/// takes less than a millisecond.
const SHORT: Duration = Duration::from_millis(250);

/// How long a machine may take to answer a ping.
const LONG: Duration = Duration::from_secs(1);

/// A program that pings.
enum Ping {
    Ping(PathBuf),
    Fping(PathBuf),
}

impl Ping {
    fn find() -> Option<Self> {
        exec::find(&["ping"]).map(Self::Ping).or_else(|| exec::find(&["fping"]).map(Self::Fping))
    }

    /// Pings once. ping(8) and fping(8) exit with 0 if there was a reply, and 1 if not.
    fn run(&self, ip: Ipv4Addr, wait: Duration) -> Result<(), ExecError> {
        let run = match self {
            Self::Ping(program) => {
                Run::new(program).args(["-n", "-q", "-c", "1", "-W"]).arg(wait.as_secs_f32().to_string())
            }
            Self::Fping(program) => {
                Run::new(program).args(["-q", "-r", "0", "-t"]).arg(wait.as_millis().to_string())
            }
        };
        run.arg(ip.to_string()).limit(Duration::from_secs(3)).negative_status(1).run().map(|_| ())
    }
}

/// Returns whether something answers at an address. Without a ping program, logs a warning and
/// returns `false`.
pub(super) fn answers(ip: Ipv4Addr) -> bool {
    let Some(ping) = Ping::find() else {
        log::event(Level::Warning, "ping.missing", &[("address", &ip)]);
        return false;
    };
    match ping.run(ip, SHORT) {
        Ok(()) => true,
        Err(error) if error.code() == Some(1) && nobody_there(ip) => false,
        // An old ping(8) takes no fractions of a second, and exits with 2.
        Err(_) => ping.run(ip, LONG).is_ok(),
    }
}

/// Returns whether the address, which has just been pinged, is on a network of the host's own and
/// nobody there has it.
fn nobody_there(ip: Ipv4Addr) -> bool {
    let Some(program) = exec::find(&["ip"]) else { return false };
    let neighbours = Run::new(program).args(["-4", "neigh", "show", "to", &ip.to_string()]).run();
    neighbours.is_ok_and(|output| are_unanswered(&output.text()))
}

/// Reads a list of ip-neighbour(8).
fn are_unanswered(neighbours: &str) -> bool {
    let is_unanswered = |line: &str| {
        let mut words = line.split_whitespace();
        words.next_back().is_some_and(|state| ["INCOMPLETE", "FAILED"].contains(&state))
            && !words.any(|word| word == "lladdr")
    };
    !neighbours.trim().is_empty() && neighbours.lines().all(is_unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_was_asked_for_in_vain_is_nobodys() {
        // As printed by iproute2 6.1.
        assert!(are_unanswered("10.0.3.21 dev br0 INCOMPLETE \n"));
        assert!(are_unanswered("10.0.3.21 dev br0 FAILED \n"));
        assert!(!are_unanswered(""), "behind a router");
        assert!(!are_unanswered("10.0.3.21 dev br0 lladdr 52:54:00:8c:11:0e REACHABLE \n"));
        assert!(!are_unanswered("10.0.3.21 dev br0 lladdr 52:54:00:8c:11:0e STALE \n"));
        assert!(!are_unanswered("10.0.3.21 dev br0 lladdr 52:54:00:8c:11:0e PERMANENT \n"));
        assert!(!are_unanswered(
            "10.0.3.21 dev br0 FAILED \n10.0.3.21 dev br1 lladdr 52:54:00:8c:11:0e DELAY \n"
        ));
    }

    #[test]
    fn this_machine_answers() {
        if Ping::find().is_none() {
            println!("nothing pings here: not tried");
            return;
        }
        assert!(answers(Ipv4Addr::LOCALHOST));
    }
}
