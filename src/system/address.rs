//! Names and addresses as this host resolves them (hosts file, DNS, other NSS sources).

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

/// Returns the addresses of a name; none if it does not resolve.
fn resolve(name: &str) -> impl Iterator<Item = IpAddr> {
    (name, 0).to_socket_addrs().into_iter().flatten().map(|address| address.ip().to_canonical())
}

/// Returns whether a name resolves.
pub fn resolves(name: &str) -> bool {
    resolve(name).next().is_some()
}

/// The address that Debian's installer enters in /etc/hosts for the host's own full name if it has
/// no fixed address (Debian Reference, "The hostname resolution").
const DEBIAN_OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));

/// Returns whether an address belongs to a name. IPv4-mapped IPv6 addresses are compared as IPv4.
/// If /etc/hosts maps the name to Debian's 127.0.1.1, every address of this host matches.
pub fn belongs_to(address: IpAddr, name: &str) -> bool {
    let address = address.to_canonical();
    let known: Vec<IpAddr> = resolve(name).collect();
    known.contains(&address) || known.contains(&DEBIAN_OWN) && is_own(address)
}

/// Returns whether an address is one of this host's: an interface address or loopback.
pub fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    // If the interfaces can't be listed, only loopback counts.
    address.is_loopback()
        || getifaddrs().is_ok_and(|mut all| all.any(|one| of_interface(&one) == Some(address)))
}

fn of_interface(interface: &InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = || address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    let v6 = || address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()).to_canonical());
    v4().or_else(v6)
}

/// Finds the line of a hosts file (hosts(5)) that maps a name to a loopback address. Returns its
/// line number, counted from 1, and its text.
pub fn loopback_line(hosts: &str, name: &str) -> Option<(usize, String)> {
    (1..).zip(hosts.lines()).find_map(|(number, line)| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let is_it = address.is_loopback() && words.any(|word| word.eq_ignore_ascii_case(name));
        is_it.then(|| (number, line.trim().to_owned()))
    })
}

/// Returns where a remote name gets a loopback address from, if it has one: calls to that name
/// would reach the calling host itself. `localhost` (RFC 6761, section 6.3) and literal addresses
/// are meant that way and are not reported.
pub fn loopback_source(name: &str) -> Option<String> {
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

/// Returns why no other machine can use an address, or `None` if one can.
pub fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    match () {
        () if address.is_unspecified() => Some("is no machine's"),
        () if address.is_loopback() => Some("is every machine's own (loopback)"),
        () if address.is_multicast() || address.is_broadcast() => Some("is many machines'"),
        () if is_own(address.into()) => Some("is this host's own"),
        () => None,
    }
}

/// Returns the first IPv4 address of a name.
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
    fn the_hosts_line_with_a_loopback_address_is_found() {
        let hosts = "127.0.0.1\tlocalhost\n# 127.0.1.1 old\n127.0.1.1\tNode1.example.org node1 # Debian\n\
                     192.0.2.7 node7\n::1 six\nno line\n";
        let found = |name| loopback_line(hosts, name).map(|(number, _)| number);
        assert_eq!(found("node1.example.org"), Some(3));
        assert_eq!((found("node1"), found("six"), found("localhost")), (Some(3), Some(5), Some(1)));
        assert_eq!((found("node7"), found("old"), found("Debian")), (None, None, None));
        assert_eq!(loopback_line(hosts, "node1").unwrap().1, "127.0.1.1\tNode1.example.org node1 # Debian");
    }

    #[test]
    fn unusable_addresses_are_rejected() {
        for (address, unusable) in [
            ("127.0.0.1", true),
            ("127.0.1.1", true),
            ("0.0.0.0", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            // RFC 5737: reserved for documentation, so no machine has it.
            ("192.0.2.7", false),
        ] {
            assert_eq!(super::unusable(address.parse().unwrap()).is_some(), unusable, "{address}");
        }
    }

    #[test]
    fn debian_s_127_0_1_1_matches_every_own_address() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let other: IpAddr = "192.0.2.7".parse().unwrap();
        assert!(belongs_to(own, "127.0.1.1") && !belongs_to(other, "127.0.1.1"));
        assert!(!belongs_to(own, "127.0.0.2"), "other loopback addresses match only themselves");
        assert!(belongs_to("::ffff:127.0.0.1".parse().unwrap(), "127.0.0.1"));
    }
}
