//! The storage of the machines' disks, and its free space.

use std::time::Duration;

use super::packages::install;
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::config::{self, StorageSettings};
use crate::model::size::{Amount, GiB};
use crate::node::storage::thin::{PoolFault, Thin};
use crate::node::storage::{self, Listing, Space, StorageError};
use crate::system::exec::{self, Run};

/// Checks that the storage can be used.
pub fn usable(node: &config::Node) -> Verdict<Space> {
    let listing = Listing::default();
    let ready = match &node.general.storage {
        StorageSettings::Thin(group, pool) => Thin::new(group, pool, &listing).ready(),
        StorageSettings::Lvm(_) | StorageSettings::Files => Ok(()),
    };
    let space = match ready {
        Err(error) if error != StorageError::NoSpace => Err(error),
        _ => storage::of(&node.general, &listing).space(),
    };
    let space = space.map_err(|error| Problem::new(&error, remedy(node, &error)))?;
    let name = match &node.general.storage {
        StorageSettings::Lvm(group) => group.to_string(),
        StorageSettings::Thin(group, pool) => format!("{group}/{pool}"),
        StorageSettings::Files => node.general.machine_directory.display().to_string(),
    };
    let note = format!("{name}, {} of {} MiB are free", space.free.mib(), space.size.mib());
    Ok(Finding::passed(space, note))
}

fn remedy(node: &config::Node, error: &StorageError) -> String {
    match (&node.general.storage, error) {
        (StorageSettings::Lvm(group) | StorageSettings::Thin(group, _), StorageError::GroupMissing(_)) => {
            format!("pvcreate /dev/DISK && vgcreate {group} /dev/DISK, or mend volumeGroupName in node.cfg")
        }
        (StorageSettings::Lvm(_), _) => format!("{}; then see what vgs says", install("lvm2", "lvm2")),
        (StorageSettings::Thin(group, pool), StorageError::Pool { why, .. }) => match why {
            PoolFault::Missing => format!(
                "lvcreate --type thin-pool -l 90%FREE -n {pool} {group}, or mend thinPool in node.cfg"
            ),
            PoolFault::NoZeroes => format!("lvchange -Z y {group}/{pool}"),
            PoolFault::NoMetadata => format!("lvextend --poolmetadatasize +128M {group}/{pool}"),
        },
        (StorageSettings::Thin(..), _) => {
            format!(
                "{}; then see what lvs says",
                install("thin-provisioning-tools", "device-mapper-persistent-data")
            )
        }
        (StorageSettings::Files, _) => {
            let directory = node.general.machine_directory.display();
            format!("install -d -o root -g root -m 711 {directory}, or mend machineDirectory in node.cfg")
        }
    }
}

/// Checks that there are loop devices, through which the host's programs reach disks that are files.
pub fn loop_devices() -> Verdict<()> {
    let program = exec::find(&["losetup"])
        .ok_or("there is no losetup on this host")
        .with_remedy(install("mount", "util-linux"))?;
    let free = Run::new(program)
        .arg("--find")
        .limit(Duration::from_secs(10))
        .run()
        .map_err(|error| super::error_output(&error))
        .with_remedy("modprobe loop; echo loop > /etc/modules-load.d/loop.conf keeps it so")?;
    Ok(Finding::passed((), format!("{} is free", free.text().trim())))
}

/// Checks that the smallest machine fits.
pub fn free_space(node: &config::Node, space: &Space) -> Verdict<()> {
    let swap = node.images().filter_map(|tag| node.image(&tag).ok()).map(|image| image.swap.amount()).min();
    let smallest = GiB::new(1).with_remedy("mend node.cfg")?.amount();
    let needed: Amount =
        [smallest, swap.unwrap_or_default()].into_iter().map(|size| space.rounded(size)).sum();
    if space.free < needed {
        let remedy = match &node.general.storage {
            StorageSettings::Thin(group, pool) => {
                format!("lvextend -L +10G {group}/{pool}, or terminate machines")
            }
            StorageSettings::Lvm(group) => format!("vgextend {group} /dev/DISK, or terminate machines"),
            StorageSettings::Files => {
                let directory = node.general.machine_directory.display();
                format!("make the file system of {directory} larger, or terminate machines")
            }
        };
        return Err(Problem::new(
            format!("{} MiB are free, and the smallest machine takes {} MiB", space.free.mib(), needed.mib()),
            remedy,
        ));
    }
    Ok(Finding::passed((), format!("enough for {} small machines", space.free.mib() / needed.mib().max(1))))
}
