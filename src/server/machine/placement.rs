//! Choosing a host when the owner leaves that to vGrid. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::declined::Part;
use crate::model::lease::Moment;
use crate::model::names::{ImageTag, PhysicalHost, VirtualHost};
use crate::model::size::{Amount, Cpus};

/// How full a host is, in machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The host.
    pub host: PhysicalHost,
    /// Its live machines.
    pub machines: u32,
    /// The most machines it may have.
    pub maximum: u32,
    /// Why an administrator has closed it to new machines, if so.
    pub disabled: Option<String>,
}

impl Load {
    /// Returns whether the host has reached its maximum; always true if that is zero.
    pub fn is_full(&self) -> bool {
        self.machines >= self.maximum
    }

    /// Returns whether the host accepts another machine.
    pub fn takes_more(&self) -> bool {
        !self.is_full() && self.disabled.is_none()
    }
}

/// What a machine needs from its host.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// Its memory.
    pub memory: Amount,
    /// Its processors.
    pub cpus: Cpus,
    /// Its root partition.
    pub disk: Amount,
    /// The image it is made from.
    pub image: &'a ImageTag,
}

/// What is known about a host. Unknown values never rule it out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Whether it failed to answer upkeep's last call.
    pub silent: bool,
    /// The time until which failed deploys keep it from getting machines.
    pub failing_until: Option<Moment>,
    /// Its free memory.
    pub memory_free: Option<Amount>,
    /// Its free disk space.
    pub disk_free: Option<Amount>,
    /// The most processors that it gives a machine.
    pub max_cpus: Option<Cpus>,
    /// The images whose files it had when it was last asked.
    pub images: Option<BTreeSet<ImageTag>>,
    /// The images that it says it can deploy.
    pub deployable: Option<BTreeSet<ImageTag>>,
}

/// A reason against placing a machine on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The host can't take the machine.
    Lacks(String),
    /// The host could take the machine, but is in doubt: the problem may or may not still be there.
    Unreliable(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Lacks(why) | Self::Unreliable(why)) = self;
        f.write_str(why)
    }
}

impl Known {
    /// Returns whether it is certain that the host can't deploy an image.
    fn lacks(&self, image: &ImageTag) -> bool {
        self.deployable.as_ref().is_some_and(|images| !images.contains(image))
    }

    /// Returns what rules out or discourages placing a machine there now, if anything.
    pub fn against(&self, need: Need<'_>, now: Moment) -> Option<Obstacle> {
        let short = |free: Option<Amount>, needed: Amount| free.filter(|free| *free < needed);
        if let Some(free) = short(self.memory_free, need.memory) {
            return Some(Obstacle::Lacks(format!("has only {free} of memory free")));
        }
        if let Some(free) = short(self.disk_free, need.disk) {
            return Some(Obstacle::Lacks(format!("has only {free} of disk space free")));
        }
        if let Some(most) = self.max_cpus.filter(|most| *most < need.cpus) {
            return Some(Obstacle::Lacks(format!("gives a machine at most {most}")));
        }
        if self.lacks(need.image) {
            return Some(Obstacle::Lacks(format!("can't run the image {}", need.image)));
        }
        if self.images.as_ref().is_some_and(|images| !images.contains(need.image)) {
            // The host may have received the image since it was last asked.
            return Some(Obstacle::Unreliable(format!("does not have the image {}", need.image)));
        }
        if self.silent {
            return Some(Obstacle::Unreliable("did not answer when it was last asked".to_owned()));
        }
        let until = self.failing_until.filter(|until| *until > now)?;
        Some(Obstacle::Unreliable(format!("failed lately; it is tried again from {until}")))
    }
}

/// Returns how long vGrid avoids a host after this many consecutive failures, in seconds.
pub fn pause(failures: u32) -> i64 {
    match failures {
        0 => 0,
        1 => 60,
        2 => 300,
        3 => 900,
        _ => 3600,
    }
}

/// The most hosts that a sentence names.
const NAMED: usize = 5;

/// Checks a request against what the hosts' configuration allows, whatever is free there: some host
/// has the image and, if the owner wants a certain host, that one can make the machine.
///
/// # Errors
/// The part of the request that is to be changed, and why, in a sentence.
pub fn check_possible(
    loads: &[Load],
    wanted: Option<&PhysicalHost>,
    known: &BTreeMap<PhysicalHost, Known>,
    need: Need<'_>,
) -> Result<(), (Part, String)> {
    let image = need.image;
    let pool = loads.iter().filter(|load| load.maximum > 0).map(|load| &load.host);
    let (unable, able): (Vec<_>, Vec<_>) =
        pool.partition(|host| known.get(host).is_some_and(|known| known.lacks(image)));
    if able.is_empty() && !unable.is_empty() {
        let sentence = format!(
            "No host has the image {image} at present. Choose another image, or tell an administrator."
        );
        return Err((Part::Base, sentence));
    }
    let Some(wanted) = wanted else { return Ok(()) };
    if unable.contains(&wanted) {
        let mut names: Vec<String> = able.iter().take(NAMED).map(ToString::to_string).collect();
        if able.len() > NAMED {
            names.push(format!("and {} more", able.len() - NAMED));
        }
        let sentence = format!(
            "The host {wanted} can't run the image {image}. Choose a host that can ({}), or leave the choice to vGrid.",
            names.join(", ")
        );
        return Err((Part::Host, sentence));
    }
    check_cpus(wanted, known, need.cpus)
}

/// Checks that a host gives a machine so many processors.
///
/// # Errors
/// As [`check_possible`].
pub fn check_cpus(
    host: &PhysicalHost,
    known: &BTreeMap<PhysicalHost, Known>,
    cpus: Cpus,
) -> Result<(), (Part, String)> {
    match known.get(host).and_then(|known| known.max_cpus).filter(|most| *most < cpus) {
        None => Ok(()),
        Some(most) => {
            Err((Part::Cpus, format!("The host {host} gives a machine at most {most}. Ask for fewer.")))
        }
    }
}

/// Returns the suitable host with the lowest share of its maximum in use; if no host is suitable,
/// the best of those that are merely unreliable, because trying beats refusing.
///
/// # Errors
/// What rules out each host, if none is left.
pub fn choose(
    loads: &[Load],
    against: impl Fn(&Load) -> Option<Obstacle>,
) -> Result<&Load, Vec<(&PhysicalHost, Obstacle)>> {
    let open: Vec<(&Load, Option<Obstacle>)> =
        loads.iter().filter(|load| load.takes_more()).map(|load| (load, against(load))).collect();
    let best = |fits: fn(&Option<Obstacle>) -> bool| {
        least_loaded(open.iter().filter(|(_, against)| fits(against)).map(|(load, _)| *load))
    };
    if let Some(load) = best(Option::is_none) {
        return Ok(load);
    }
    best(|against| matches!(against, Some(Obstacle::Unreliable(_))))
        .ok_or_else(|| open.iter().filter_map(|(load, why)| Some((&load.host, why.clone()?))).collect())
}

/// Returns the host with the lowest share of its maximum in use among those that accept more
/// machines; on a tie, the first. `None` if there is none.
pub fn least_loaded<'a>(loads: impl IntoIterator<Item = &'a Load>) -> Option<&'a Load> {
    // Compares a/b < c/d as a·d < c·b, which needs no rounding. The maximum of a host that is not
    // full is above zero.
    loads.into_iter().filter(|load| load.takes_more()).reduce(|best, load| {
        let share = |a: &Load, b: &Load| u64::from(a.machines) * u64::from(b.maximum);
        if share(load, best) < share(best, load) { load } else { best }
    })
}

/// Returns the first name in the pool, in its order, that is free and that `fits`.
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
    fn the_emptiest_host_is_passed_over_when_it_fails_is_silent_or_lacks_something() {
        let load =
            |name: &str, machines| Load { host: name.parse().unwrap(), machines, maximum: 9, disabled: None };
        let loads = [load("empty", 0), load("fuller", 5)];
        let image: ImageTag = "tiny".parse().unwrap();
        let (memory, disk) = (Amount::from_mib(100), Amount::from_mib(1000));
        let cpus = |n| Cpus::new(n).unwrap();
        let need = Need { memory, cpus: cpus(4), disk, image: &image };
        let now = Moment::from_unix(1000);
        let with = |known: &Known| {
            let chosen = super::choose(&loads, |load| {
                known.against(need, now).filter(|_| load.host.as_str() == "empty")
            });
            chosen.unwrap().host.as_str().to_owned()
        };
        let some = |mib| Some(Amount::from_mib(mib));
        let has = |tags: &[&str]| Some(tags.iter().map(|tag| tag.parse().unwrap()).collect());
        for known in [
            Known { silent: true, ..Known::default() },
            Known { failing_until: Some(Moment::from_unix(1001)), ..Known::default() },
            Known { memory_free: some(99), ..Known::default() },
            Known { disk_free: some(999), ..Known::default() },
            Known { max_cpus: Some(cpus(3)), ..Known::default() },
            Known { images: has(&["other"]), ..Known::default() },
            Known { deployable: has(&["other"]), ..Known::default() },
            Known { deployable: has(&[]), images: has(&["tiny"]), ..Known::default() },
        ] {
            assert_eq!(with(&known), "fuller", "{known:?}");
        }
        for known in [
            Known::default(),
            Known { failing_until: Some(now), ..Known::default() },
            Known {
                memory_free: some(100),
                disk_free: some(1000),
                max_cpus: Some(cpus(4)),
                images: has(&["tiny"]),
                deployable: has(&["other", "tiny"]),
                ..Known::default()
            },
        ] {
            assert_eq!(with(&known), "empty", "{known:?}");
        }
        // An unreliable host is tried if there is no better one; one that can't take the machine is
        // not.
        let silent = Known { silent: true, ..Known::default() };
        assert_eq!(super::choose(&loads, |_| silent.against(need, now)).unwrap().host.as_str(), "empty");
        let small = Known { memory_free: some(1), ..Known::default() };
        let refused = super::choose(&loads, |_| small.against(need, now)).unwrap_err();
        assert_eq!(refused.len(), 2);
        assert_eq!(refused[0].1.to_string(), "has only 1 MiB of memory free");
        let single = Known { max_cpus: Some(cpus(1)), ..Known::default() };
        let refused = super::choose(&loads, |_| single.against(need, now)).unwrap_err();
        assert_eq!(refused[0].1.to_string(), "gives a machine at most 1 processor");
    }

    #[test]
    fn what_no_host_or_not_the_wanted_host_can_make_is_said_at_once() {
        let names = ["node1", "node2", "node3", "closed"];
        let maximum = |name: &str| if name == "closed" { 0 } else { 4 };
        let load = |name: &str| Load {
            host: name.parse().unwrap(),
            machines: 4,
            maximum: maximum(name),
            disabled: None,
        };
        let loads = names.map(load);
        let image: ImageTag = "tiny".parse().unwrap();
        let amount = Amount::default();
        let need = Need { memory: amount, cpus: Cpus::new(2).unwrap(), disk: amount, image: &image };
        let check = |wanted: Option<&str>, told: [Option<&[&str]>; 4], most: Option<u32>| {
            let known = names.iter().zip(told).map(|(name, tags)| {
                let deployable = tags.map(|tags| tags.iter().map(|tag| tag.parse().unwrap()).collect());
                let max_cpus = most.map(|most| Cpus::new(most).unwrap());
                (name.parse().unwrap(), Known { max_cpus, deployable, ..Known::default() })
            });
            let wanted = wanted.map(|name| name.parse().unwrap());
            check_possible(&loads, wanted.as_ref(), &known.collect(), need)
        };
        let (tiny, other): (Option<&[&str]>, Option<&[&str]>) = (Some(&["tiny"]), Some(&["other"]));
        // Hosts that do not say may have any.
        assert_eq!(check(Some("node1"), [None; 4], None), Ok(()));
        assert_eq!(check(Some("node2"), [other, None, other, other], None), Ok(()));
        assert_eq!(check(None, [other, tiny, other, other], Some(2)), Ok(()));
        let (part, sentence) = check(Some("node1"), [other, None, tiny, tiny], None).unwrap_err();
        assert_eq!(
            (part, sentence.as_str()),
            (
                Part::Host,
                "The host node1 can't run the image tiny. Choose a host that can (node2, node3), or leave the choice to \
                 vGrid."
            )
        );
        // A host that takes no machines does not count.
        for wanted in [None, Some("node1")] {
            let (part, sentence) = check(wanted, [other, Some(&[]), other, tiny], None).unwrap_err();
            assert!(part == Part::Base && sentence.starts_with("No host has the image tiny"), "{sentence}");
        }
        let (part, sentence) = check(Some("node3"), [None; 4], Some(1)).unwrap_err();
        assert_eq!(
            (part, sentence.as_str()),
            (Part::Cpus, "The host node3 gives a machine at most 1 processor. Ask for fewer.")
        );
        assert_eq!(check_possible(&[], None, &BTreeMap::new(), need), Ok(()), "there is no pool");
    }

    #[test]
    fn pauses_grow_up_to_an_hour() {
        assert_eq!([0, 1, 2, 3, 4, 99].map(pause), [0, 60, 300, 900, 3600, 3600]);
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
