//! Where a machine goes when its owner leaves that to vGrid. Pure.

use std::collections::BTreeSet;

use crate::model::names::{PhysicalHost, VirtualHost};

/// How full a host is, in machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The host.
    pub host: PhysicalHost,
    /// Its live machines.
    pub machines: u32,
    /// The most it may have.
    pub maximum: u32,
    /// Why an administrator lets it have no new ones, if so.
    pub disabled: Option<String>,
}

impl Load {
    /// Whether no further machine may go there; always so when the maximum is zero.
    pub fn is_full(&self) -> bool {
        self.machines >= self.maximum
    }

    /// Whether a further machine may go there.
    pub fn takes_more(&self) -> bool {
        !self.is_full() && self.disabled.is_none()
    }
}

/// The host with the lowest share of its maximum in use, among those that take more; of equals the
/// first. `None` if none does.
pub fn least_loaded(loads: &[Load]) -> Option<&Load> {
    // a/b < c/d as a·d < c·b: no rounding, and a host that is not full has a maximum above zero.
    loads.iter().filter(|load| load.takes_more()).reduce(|best, load| {
        let share = |a: &Load, b: &Load| u64::from(a.machines) * u64::from(b.maximum);
        if share(load, best) < share(best, load) { load } else { best }
    })
}

/// The first name of the pool, in its order, that is free and that `fits`.
pub fn first_free<'a>(
    pool: impl IntoIterator<Item = &'a VirtualHost>,
    taken: &BTreeSet<VirtualHost>,
    fits: impl Fn(&VirtualHost) -> bool,
) -> Option<&'a VirtualHost> {
    pool.into_iter().find(|name| !taken.contains(*name) && fits(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(loads: &[(u32, u32)]) -> Option<usize> {
        let loads: Vec<Load> = loads
            .iter()
            .enumerate()
            .map(|(n, &(machines, maximum))| Load {
                host: format!("node{n}").parse().unwrap(),
                machines,
                maximum,
                disabled: None,
            })
            .collect();
        let chosen = least_loaded(&loads)?;
        loads.iter().position(|load| load == chosen)
    }

    #[test]
    fn the_lowest_share_wins_not_the_lowest_number() {
        assert_eq!(choose(&[(2, 4), (3, 10), (1, 2)]), Some(1));
        assert_eq!(choose(&[(1, 3), (1, 3), (0, 1)]), Some(2));
        assert_eq!(choose(&[(333_333_333, 1_000_000_000), (1, 3), (0, 0)]), Some(0));
        assert_eq!(choose(&[(u32::MAX - 1, u32::MAX), (u32::MAX - 2, u32::MAX)]), Some(1));
    }

    #[test]
    fn of_equals_the_first_wins() {
        assert_eq!(choose(&[(1, 2), (2, 4), (5, 10)]), Some(0));
        assert_eq!(choose(&[(0, 5), (0, 100)]), Some(0));
    }

    #[test]
    fn full_and_disabled_hosts_are_left_out() {
        assert_eq!(choose(&[(4, 4), (5, 4), (0, 0), (9, 10)]), Some(3));
        assert_eq!(choose(&[(4, 4), (0, 0)]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn a_disabled_host_gets_nothing_however_empty() {
        let load = |name: &str, disabled: Option<&str>| Load {
            host: name.parse().unwrap(),
            machines: 0,
            maximum: 4,
            disabled: disabled.map(str::to_owned),
        };
        let loads = [load("node1", Some("its fan is loud")), load("node2", None)];
        assert_eq!(least_loaded(&loads), Some(&loads[1]));
        assert_eq!(least_loaded(&loads[..1]), None);
    }

    #[test]
    fn names_are_given_out_in_the_order_of_the_file() {
        let pool: Vec<VirtualHost> = ["z1", "a1", "b1"].iter().map(|name| name.parse().unwrap()).collect();
        let taken: BTreeSet<_> = [pool[0].clone()].into();
        assert_eq!(first_free(&pool, &taken, |_| true), Some(&pool[1]));
        assert_eq!(first_free(&pool, &taken, |name| name.as_str() != "a1"), Some(&pool[2]));
        assert_eq!(first_free(&pool, &pool.iter().cloned().collect(), |_| true), None);
    }
}
