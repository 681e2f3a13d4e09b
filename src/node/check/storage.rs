//! The volume group, and its free space.

use crate::check::{OrElse as _, Problem, Seen, Verdict};
use crate::config;
use crate::model::size::{Amount, GiB};
use crate::node::storage::{self, Space, StorageError};

/// Checks that the volume group exists.
pub fn volume_group(node: &config::Node) -> Verdict<Space> {
    let name = &node.general.volume_group_name;
    let group = storage::of(&node.general).space().map_err(|error| {
        let remedy = match error {
            StorageError::GroupMissing(_) => {
                format!(
                    "pvcreate /dev/DISK && vgcreate {name} /dev/DISK, or mend volumeGroupName in node.cfg"
                )
            }
            _ => "apt-get install lvm2; then see what vgs says".to_owned(),
        };
        Problem::new(error, remedy)
    })?;
    let note = format!("{name}, {} of {} MiB are free", group.free.mib(), group.size.mib());
    Ok(Seen::well(group, note))
}

/// Checks that the smallest machine fits.
pub fn free_space(node: &config::Node, group: &Space) -> Verdict<()> {
    let swap = node.images().filter_map(|tag| node.image(&tag).ok()).map(|image| image.swap.amount()).min();
    let smallest = GiB::new(1).or_else_do("mend node.cfg")?.amount();
    let needed: Amount =
        [smallest, swap.unwrap_or_default()].into_iter().map(|size| group.rounded(size)).sum();
    if group.free < needed {
        return Err(Problem::new(
            format!("{} MiB are free, and the smallest machine takes {} MiB", group.free.mib(), needed.mib()),
            format!("vgextend {} /dev/DISK, or terminate machines", node.general.volume_group_name),
        ));
    }
    Ok(Seen::well((), format!("enough for {} small machines", group.free.mib() / needed.mib().max(1))))
}
