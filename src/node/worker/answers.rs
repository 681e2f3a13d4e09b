//! Whether something answers at an address.
//!
//! On a network of the host's own, whatever has an address first tells its hardware address, by its
//! kernel and at once (ARP, RFC 826); Linux asks a second time only after a second (`retrans_time_ms`,
//! arp(7)). So if nobody has done that after [`SHORT`], nobody answers. Linux forgets whom it has
//! asked for when the last machine on a bridge ends, so an address of which nothing is known is asked
//! for twice. Behind a router, or where a hardware address is known, only a ping of [`LONG`] tells.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::system::exec::{self, ExecError, Run};
use crate::system::log::{self, Level};

/// How long a machine on the host's own network may take to tell its hardware address. An idle one
/// takes less than a millisecond.
const SHORT: Duration = Duration::from_millis(150);

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
    for _ in 0..2 {
        match ping.run(ip, SHORT) {
            Ok(()) => return true,
            Err(error) if error.code() == Some(1) => match neighbour(ip) {
                Neighbour::Nobody => return false,
                Neighbour::Somebody => break,
                Neighbour::Unknown => {}
            },
            // An old ping(8) takes no fractions of a second, and exits with 2.
            Err(_) => break,
        }
    }
    ping.run(ip, LONG).is_ok()
}

/// Who has an address, as far as the kernel knows.
#[derive(Debug, PartialEq, Eq)]
enum Neighbour {
    /// Nobody answered the question of who has it.
    Nobody,
    Somebody,
    /// It is behind a router, nobody has asked, or the answer has been forgotten.
    Unknown,
}

/// Returns who has an address that has just been pinged.
fn neighbour(ip: Ipv4Addr) -> Neighbour {
    let Some(program) = exec::find(&["ip"]) else { return Neighbour::Unknown };
    let neighbours = Run::new(program).args(["-4", "neigh", "show", "to", &ip.to_string()]).run();
    neighbours.map_or(Neighbour::Unknown, |output| parse_neighbours(&output.text()))
}

/// Reads a list of ip-neighbour(8).
fn parse_neighbours(list: &str) -> Neighbour {
    let is_unanswered = |line: &str| {
        let mut words = line.split_whitespace();
        words.next_back().is_some_and(|state| ["INCOMPLETE", "FAILED"].contains(&state))
            && !words.any(|word| word == "lladdr")
    };
    if list.trim().is_empty() {
        Neighbour::Unknown
    } else if list.lines().all(is_unanswered) {
        Neighbour::Nobody
    } else {
        Neighbour::Somebody
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_was_asked_for_in_vain_is_nobodys() {
        // As printed by iproute2 6.1.
        for (list, expected) in [
            ("10.0.3.21 dev br0 INCOMPLETE \n", Neighbour::Nobody),
            ("10.0.3.21 dev br0 FAILED \n", Neighbour::Nobody),
            ("", Neighbour::Unknown),
            ("10.0.3.21 dev br0 lladdr 52:54:00:8c:11:0e REACHABLE \n", Neighbour::Somebody),
            ("10.0.3.21 dev br0 lladdr 52:54:00:8c:11:0e STALE \n", Neighbour::Somebody),
            ("10.0.3.21 dev br0 lladdr 52:54:00:8c:11:0e PERMANENT \n", Neighbour::Somebody),
            (
                "10.0.3.21 dev br0 FAILED \n10.0.3.21 dev br1 lladdr 52:54:00:8c:11:0e DELAY \n",
                Neighbour::Somebody,
            ),
        ] {
            assert_eq!(parse_neighbours(list), expected, "{list}");
        }
    }

    #[test]
    fn only_an_existing_address_answers() {
        assert!(answers(Ipv4Addr::LOCALHOST));
        // RFC 5737: reserved for documentation, so no machine has it.
        assert!(!answers(Ipv4Addr::new(192, 0, 2, 7)));
    }
}
