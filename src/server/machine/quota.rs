//! Quotas (`[Quotas]`) and usage. Pure: the registry computes the usage from the live machines, in
//! the transaction that records the next one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::declined::Part;
use crate::config::Quota;
use crate::model::size::{Amount, Cpus, GiB, MiB};
use crate::model::spec::Sizes;
use crate::model::text::Row;
use crate::server::registry::image::ImageUsage;
use crate::server::registry::user::Owner;
use crate::server::registry::vm::Usage;

/// Returns what one more machine would exceed, in sentences; empty if it fits.
pub fn exceeded(quota: Quota, usage: Usage, memory: MiB, cpus: Cpus, disk: GiB) -> BTreeMap<Part, String> {
    let machines = u64::from(usage.machines);
    if quota.machines != 0 && machines >= u64::from(quota.machines) {
        let sentence = format!(
            "You have {}, and your limit is {}. Terminate one, or ask an administrator for more.",
            counted(machines, "machine"),
            quota.machines
        );
        return BTreeMap::from([(Part::Machine, sentence)]);
    }
    let left = |limit: u64, used: u64, wanted: u32| {
        let left = limit.saturating_sub(used);
        (limit != 0 && u64::from(wanted) > left).then_some(left)
    };
    let check = |limit: u64, used: u64, wanted: u32, unit: &str, of: &str| {
        let left = left(limit, used, wanted)?;
        let less = if left == 0 { "Terminate" } else { "Ask for less, terminate" };
        Some(format!(
            "Your machines have {used} {unit} of {of} together, and your limit is {limit} {unit}: {left} {unit} are \
             left. {less} a machine, or ask an administrator for more."
        ))
    };
    let memory = check(quota.memory, usage.memory_mib, memory.get(), "MiB", "memory");
    let cpus = left(quota.cpus, usage.cpus, cpus.get()).map(|left| {
        let less = if left == 0 { "Terminate" } else { "Ask for fewer, terminate" };
        format!(
            "Your machines have {} together, and your limit is {}: {left} {} left. {less} a machine, or ask an \
             administrator for more.",
            counted(usage.cpus, "processor"),
            quota.cpus,
            if left == 1 { "is" } else { "are" }
        )
    });
    let disk = check(quota.disk, usage.disk_gib, disk.get(), "GiB", "disk");
    [(Part::Memory, memory), (Part::Cpus, cpus), (Part::Disk, disk)]
        .into_iter()
        .filter_map(|(part, sentence)| Some((part, sentence?)))
        .collect()
}

/// Returns what other sizes of a machine would exceed, in sentences; empty if they fit. `others` is
/// what the owner's other machines use. Where a size does not grow, no limit holds.
pub fn resize_exceeded(
    quota: Quota,
    others: Usage,
    owner: &Owner,
    old: Sizes,
    new: Sizes,
) -> BTreeMap<Part, String> {
    let owner = owner.as_str();
    let check = |limit: u64, used: u64, (old, new): (u32, u32), have: String, unit: &str, less: &str| {
        let left = limit.saturating_sub(used);
        let are = if left == 1 && unit.is_empty() { "is" } else { "are" };
        (limit != 0 && new > old && u64::from(new) > left).then(|| {
            format!(
                "The other machines of {owner} have {have} together, and the limit is {limit}{unit}: {left}{unit} {are} \
                 left for this one. Ask for {less}, terminate a machine, or ask an administrator for more."
            )
        })
    };
    let Usage { memory_mib, cpus, disk_gib, .. } = others;
    let (memory, processors, disk) = (
        format!("{memory_mib} MiB of memory"),
        counted(cpus, "processor"),
        format!("{disk_gib} GiB of disk"),
    );
    [
        (
            Part::Memory,
            check(quota.memory, memory_mib, (old.memory.get(), new.memory.get()), memory, " MiB", "less"),
        ),
        (Part::Cpus, check(quota.cpus, cpus, (old.cpus.get(), new.cpus.get()), processors, "", "fewer")),
        (Part::Disk, check(quota.disk, disk_gib, (old.disk.get(), new.disk.get()), disk, " GiB", "less")),
    ]
    .into_iter()
    .filter_map(|(part, sentence)| Some((part, sentence?)))
    .collect()
}

/// Returns why a disk of this size can't be saved as one more image, or `None` if it can. An image
/// counts with the size of its partition until it has been saved, because the size of its file is
/// unknown until then.
pub fn image_exceeded(quota: Quota, usage: ImageUsage, owner: &Owner, disk: GiB) -> Option<String> {
    let ImageUsage { images, bytes } = usage;
    let owner = owner.as_str();
    if quota.images != 0 && images >= quota.images {
        let have = if images == 1 { "1 saved image".to_owned() } else { format!("{images} saved images") };
        return Some(format!(
            "{owner} has {have}, and the limit is {}. Delete one, or ask an administrator for more.",
            quota.images
        ));
    }
    let limit = Amount::from_mib(quota.image_disk.saturating_mul(1024));
    let used = Amount::from_mib(bytes.div_ceil(1 << 20));
    (quota.image_disk != 0 && used.plus(disk.amount()) > limit).then(|| {
        format!(
            "The saved images of {owner} take {used} together, and the limit is {limit}; the image of this disk can take \
             {} more. Delete images, or ask an administrator for more.",
            disk.amount()
        )
    })
}

/// Returns why an owner whose machines have so many snapshots can't have one more, or `None` if they can.
pub fn snapshot_exceeded(quota: Quota, count: u32, owner: &Owner) -> Option<String> {
    let (limit, owner) = (quota.snapshots, owner.as_str());
    (limit != 0 && count >= limit).then(|| {
        format!(
            "The machines of {owner} have {}, and the limit is {limit}. Delete one, or ask an administrator for more.",
            counted(count.into(), "snapshot")
        )
    })
}

/// Describes the saved images a user has and may have, in a sentence; `None` if there is no limit.
pub fn images_text(quota: Quota, usage: ImageUsage) -> Option<String> {
    let of = |limit: u64| if limit == 0 { String::new() } else { format!(" of {limit}") };
    let tenths = usage.bytes.saturating_mul(10) >> 30;
    let gib = format!("{}.{}", tenths / 10, tenths % 10);
    (quota.images != 0 || quota.image_disk != 0).then(|| {
        let (images, disk) = (of(quota.images.into()), of(quota.image_disk));
        format!("You have {}{images} saved images, {gib}{disk} GiB.", usage.images)
    })
}

/// The usage and limit of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The amount in use.
    pub used: u64,
    /// The limit; absent if there is none.
    pub limit: Option<u64>,
}

/// A user's usage and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuotaView {
    /// Machines.
    pub machines: Share,
    /// Their memory.
    pub memory_mib: Share,
    /// Their root partitions.
    pub disk_gib: Share,
    /// Their processors.
    pub cpus: Share,
    /// Whether any limit is set.
    pub limited: bool,
    /// The same as a sentence.
    pub text: String,
}

impl QuotaView {
    /// Combines a quota with the current usage.
    pub fn new(quota: Quota, usage: Usage) -> Self {
        let share = |used: u64, limit: u64| Share { used, limit: (limit != 0).then_some(limit) };
        let machines = share(usage.machines.into(), quota.machines.into());
        let memory_mib = share(usage.memory_mib, quota.memory);
        let disk_gib = share(usage.disk_gib, quota.disk);
        let cpus = share(usage.cpus, quota.cpus);
        let of = |share: &Share, unit: &str| match share.limit {
            Some(limit) => format!("{} of {limit} {unit}", share.used),
            None => format!("{} {unit}", share.used),
        };
        let many = match machines.limit {
            Some(limit) => format!("{} of {}", machines.used, counted(limit, "machine")),
            None => counted(machines.used, "machine"),
        };
        // Most machines have one, so this says something new only where they are limited.
        let processors = match cpus.limit {
            Some(limit) => format!(", {} of {}", cpus.used, counted(limit, "processor")),
            None => String::new(),
        };
        let text = format!(
            "You have {many}, {} of memory, {} of disk{processors}.",
            of(&memory_mib, "MiB"),
            of(&disk_gib, "GiB")
        );
        let limited = [&machines, &memory_mib, &disk_gib, &cpus].iter().any(|share| share.limit.is_some());
        Self { machines, memory_mib, disk_gib, cpus, limited, text }
    }

    /// Formats a comment line for scripts: `# quota`, then usage and limit of machines, memory
    /// (MiB), disk (GiB) and processors, tab-separated, with `-` for no limit.
    pub fn line(&self) -> String {
        let shares = [&self.machines, &self.memory_mib, &self.disk_gib, &self.cpus];
        shares
            .iter()
            .fold(Row::of(&[&"# quota"]), |row, share| row.and(share.used).or_dash(share.limit))
            .line()
    }
}

fn counted(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: Usage = Usage { machines: 2, memory_mib: 1536, cpus: 3, disk_gib: 20 };

    fn parts(quota: Quota, memory: u32, disk: u32) -> Vec<Part> {
        let (memory, disk) = (MiB::new(memory).unwrap(), GiB::new(disk).unwrap());
        let found = exceeded(quota, USED, memory, Cpus::default(), disk);
        for sentence in found.values() {
            assert!(sentence.ends_with("ask an administrator for more."), "{sentence}");
        }
        found.into_keys().collect()
    }

    #[test]
    fn the_last_that_fits_is_taken_and_the_next_is_not() {
        let quota = Quota { machines: 3, memory: 2048, disk: 30, ..Quota::default() };
        assert!(parts(quota, 512, 10).is_empty());
        assert_eq!(parts(quota, 513, 10), [Part::Memory]);
        assert_eq!(parts(quota, 512, 11), [Part::Disk]);
        assert_eq!(parts(quota, 4096, 99), [Part::Memory, Part::Disk]);
        assert_eq!(parts(Quota { machines: 2, ..quota }, 4096, 99), [Part::Machine]);
        // The quota was lowered below what is already in use.
        assert_eq!(parts(Quota { machines: 1, memory: 1, disk: 1, ..quota }, 16, 1), [Part::Machine]);
        assert_eq!(
            parts(Quota { machines: 0, memory: 1, disk: 1, ..quota }, 16, 1),
            [Part::Memory, Part::Disk]
        );
    }

    #[test]
    fn processors_are_counted_together() {
        let says = |limit, cpus| {
            let quota = Quota { cpus: limit, ..Quota::default() };
            let (memory, disk) = (MiB::new(16).unwrap(), GiB::new(1).unwrap());
            exceeded(quota, USED, memory, Cpus::new(cpus).unwrap(), disk).remove(&Part::Cpus)
        };
        assert_eq!((says(0, Cpus::MAX), says(4, 1), says(7, 4)), (None, None, None));
        let one_left = "Your machines have 3 processors together, and your limit is 4: 1 is left. Ask for fewer, \
                        terminate a machine, or ask an administrator for more.";
        assert_eq!(says(4, 2).unwrap(), one_left);
        assert!(says(3, 1).unwrap().contains("your limit is 3: 0 are left. Terminate a machine"));
        // The quota was lowered below what is already in use.
        assert!(says(1, 1).unwrap().contains("your limit is 1: 0 are left"));
    }

    #[test]
    fn nothing_is_no_limit() {
        assert!(parts(Quota::default(), MiB::MAX, GiB::MAX).is_empty());
        let view = QuotaView::new(Quota::default(), Usage { machines: 1, ..USED });
        assert!(!view.limited);
        assert_eq!(view.text, "You have 1 machine, 1536 MiB of memory, 20 GiB of disk.");
        assert_eq!(view.line(), "# quota\t1\t-\t1536\t-\t20\t-\t3\t-\n");
    }

    #[test]
    fn what_one_has_is_told_with_its_limit() {
        let view = QuotaView::new(Quota { machines: 5, memory: 2048, ..Quota::default() }, USED);
        assert_eq!(view.text, "You have 2 of 5 machines, 1536 of 2048 MiB of memory, 20 GiB of disk.");
        assert_eq!(view.line(), "# quota\t2\t5\t1536\t2048\t20\t-\t3\t-\n");
        let view = QuotaView::new(Quota { cpus: 8, ..Quota::default() }, USED);
        assert!(view.limited);
        assert_eq!(view.text, "You have 2 machines, 1536 MiB of memory, 20 GiB of disk, 3 of 8 processors.");
        assert_eq!(view.line(), "# quota\t2\t-\t1536\t-\t20\t-\t3\t8\n");
    }

    #[test]
    fn images_count_by_number_and_by_size() {
        let alice: Owner = Owner::of(&"alice".parse().unwrap());
        let says = |quota, images, gib: u64, disk| {
            let usage = ImageUsage { images, bytes: gib << 30 };
            image_exceeded(quota, usage, &alice, GiB::new(disk).unwrap())
        };
        let quota = Quota { images: 2, image_disk: 10, ..Quota::default() };
        assert_eq!(says(quota, 1, 6, 4), None);
        assert_eq!(says(Quota::default(), 99, 9999, 999), None);
        assert_eq!(
            says(quota, 2, 1, 1).unwrap(),
            "alice has 2 saved images, and the limit is 2. Delete one, or ask an administrator for more."
        );
        let sentence = says(quota, 1, 6, 5).unwrap();
        assert!(sentence.contains("take 6.0 GiB together, and the limit is 10.0 GiB"), "{sentence}");
        assert!(sentence.contains("can take 5.0 GiB more. Delete images"), "{sentence}");
        let text = |quota| images_text(quota, ImageUsage { images: 1, bytes: 3 << 29 });
        assert_eq!(text(quota).unwrap(), "You have 1 of 2 saved images, 1.5 of 10 GiB.");
        assert_eq!(text(Quota { machines: 1, ..Quota::default() }), None);
    }
}
