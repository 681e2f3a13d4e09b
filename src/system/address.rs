//! Names and addresses, as this machine resolves them (hosts file, DNS, whatever NSS says).

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

/// The addresses of a name; none if it does not resolve.
fn resolve(name: &str) -> impl Iterator<Item = IpAddr> {
    (name, 0).to_socket_addrs().into_iter().flatten().map(|address| address.ip().to_canonical())
}

/// Whether a name has an address.
pub fn resolves(name: &str) -> bool {
    resolve(name).next().is_some()
}

/// What Debian's installer enters in /etc/hosts for the machine's own full name where it has no fixed address (Debian
/// Reference, "The hostname resolution").
const DEBIAN_OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));

/// Whether an address is one of that name's. IPv4 addresses that came over an IPv6 socket are compared as IPv4. A name that
/// Debian's line in /etc/hosts makes this machine's own has all addresses of this machine.
pub fn belongs_to(address: IpAddr, name: &str) -> bool {
    let address = address.to_canonical();
    let known: Vec<IpAddr> = resolve(name).collect();
    known.contains(&address) || known.contains(&DEBIAN_OWN) && is_own(address)
}

/// Whether an address is this machine's: of one of its interfaces, or loopback.
pub fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    // Where the interfaces can't be listed, none counts.
    address.is_loopback()
        || getifaddrs().is_ok_and(|mut all| all.any(|one| of_interface(&one) == Some(address)))
}

fn of_interface(interface: &InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = || address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    let v6 = || address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()).to_canonical());
    v4().or_else(v6)
}

/// The line of a hosts file (hosts(5)) that gives a name a loopback address, as people find it: its number and its text.
pub fn loopback_line(hosts: &str, name: &str) -> Option<(usize, String)> {
    (1..).zip(hosts.lines()).find_map(|(number, line)| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let is_it = address.is_loopback() && words.any(|word| word.eq_ignore_ascii_case(name));
        is_it.then(|| (number, line.trim().to_owned()))
    })
}

/// Where a name that is not this machine's has a loopback address from, if it has one: then whoever calls that name reaches
/// itself. `localhost` (RFC 6761, section 6.3) and an address in place of a name are what they are.
pub fn astray(name: &str) -> Option<String> {
    let is_plain = name == "localhost" || name.parse::<IpAddr>().is_ok();
    if is_plain || !resolve(name).any(|address| address.is_loopback()) {
        return None;
    }
    let line = std::fs::read_to_string(HOSTS).ok().and_then(|hosts| loopback_line(&hosts, name));
    Some(match line {
        Some((number, text)) => format!("line {number} of {HOSTS}: {text}"),
        None => "the DNS".to_owned(),
    })
}

/// hosts(5).
const HOSTS: &str = "/etc/hosts";

/// Why no other machine can have an address, if so.
pub fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    match () {
        () if address.is_unspecified() => Some("is no machine's"),
        () if address.is_loopback() => Some("is every machine's own (loopback)"),
        () if address.is_multicast() || address.is_broadcast() => Some("is many machines'"),
        () if is_own(address.into()) => Some("is this host's own"),
        () => None,
    }
}

/// The first IPv4 address of a name.
pub fn ipv4(name: &str) -> Option<Ipv4Addr> {
    resolve(name).find_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_makes_a_name_loopback_is_found() {
        let hosts = "127.0.0.1\tlocalhost\n# 127.0.1.1 old\n127.0.1.1\tNode1.example.org node1 # Debian\n\
                     192.0.2.7 node7\n::1 six\nno line\n";
        let found = |name| loopback_line(hosts, name).map(|(number, _)| number);
        assert_eq!(found("node1.example.org"), Some(3));
        assert_eq!((found("node1"), found("six"), found("localhost")), (Some(3), Some(5), Some(1)));
        assert_eq!((found("node7"), found("old"), found("Debian")), (None, None, None));
        assert_eq!(loopback_line(hosts, "node1").unwrap().1, "127.0.1.1\tNode1.example.org node1 # Debian");
    }

    #[test]
    fn what_no_other_machine_can_have_is_named() {
        for (address, unusable) in [
            ("127.0.0.1", true),
            ("127.0.1.1", true),
            ("0.0.0.0", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            // RFC 5737: of no machine.
            ("192.0.2.7", false),
        ] {
            assert_eq!(super::unusable(address.parse().unwrap()).is_some(), unusable, "{address}");
        }
    }

    #[test]
    fn debian_s_line_makes_a_name_this_machine_s() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let other: IpAddr = "192.0.2.7".parse().unwrap();
        assert!(belongs_to(own, "127.0.1.1") && !belongs_to(other, "127.0.1.1"));
        assert!(!belongs_to(own, "127.0.0.2"), "other names of this machine have their one address");
        assert!(belongs_to("::ffff:127.0.0.1".parse().unwrap(), "127.0.0.1"));
    }
}
