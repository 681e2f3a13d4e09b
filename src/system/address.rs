//! Names and addresses, as this machine resolves them (hosts file, DNS, whatever NSS says).

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _};

/// The addresses of a name; none if it does not resolve.
fn resolve(name: &str) -> impl Iterator<Item = IpAddr> {
    (name, 0).to_socket_addrs().into_iter().flatten().map(|address| address.ip().to_canonical())
}

/// Whether a name has an address.
pub fn resolves(name: &str) -> bool {
    resolve(name).next().is_some()
}

/// Whether an address is one of that name's. IPv4 addresses that came
/// over an IPv6 socket are compared as IPv4.
pub fn belongs_to(address: IpAddr, name: &str) -> bool {
    let address = address.to_canonical();
    resolve(name).any(|known| known == address)
}

/// The first IPv4 address of a name.
pub fn ipv4(name: &str) -> Option<Ipv4Addr> {
    resolve(name).find_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}
