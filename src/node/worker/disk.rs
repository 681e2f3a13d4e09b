//! Machines of whole-disk images: their disk, and what cloud-init in them is told.

use std::thread;
use std::time::Duration;

use crate::config::{CloudInit, ImageSettings};
use crate::model::fault::{self, Fault};
use crate::model::names::{ImageTag, UserName};
use crate::model::public_keys::PublicKeys;
use crate::model::size::Amount;
use crate::model::stage::{Percent, Stage};
use crate::model::wire::DeployOrder;
use crate::node::image;
use crate::node::image::disk::{self, DiskError, Image};
use crate::node::image::store::{self, Draft};
use crate::remote::{Client, RemoteError};
use crate::system::log::{self, Level};

use super::{Stop, Worker};

/// The time that the key repository has to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How often a deploy asks a repository that does not answer, and the time between two attempts.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(3);

/// Makes the seed, and copies the image to the machine's disk. Without a key the deploy ends before
/// anything is copied.
pub(super) fn unpack(
    worker: &mut Worker<'_>,
    order: &DeployOrder,
    settings: &ImageSettings,
) -> Result<(), Stop> {
    seed(worker, order)?;
    let tag = store::named(order);
    let partition = order.spec.disk.amount();
    let unusable = |tag: &ImageTag, error: DiskError| match error {
        DiskError::TooLarge { size: Some(size) } => Fault::DiskTooLarge {
            tag: tag.clone(),
            size: Amount::from_mib(size.div_ceil(1 << 20)),
            partition,
        },
        DiskError::TooLarge { size: None } => Fault::ImageTooLarge { tag: tag.clone(), partition },
        error => Fault::ImageCorrupt { tag: tag.clone(), detail: fault::detail(&error.to_string()) },
    };
    let (file, format) = store::disk_source(worker.config, order, settings)
        .map_err(|missing| worker.image_missing(missing))?;
    let image = Image::open(file, format).map_err(|error| unusable(&tag, error))?;
    let (helper, machine) = (worker.helper.clone(), worker.record.machine.clone());
    let (fed, result) = worker.while_reporting(Stage::Unpack, |progress| {
        helper.write_disk(order.id, &machine, &tag, |pipe| {
            image::enlarge(pipe);
            Ok(image.send(pipe, partition.bytes(), |read| progress.note(Percent::of(read, 100))))
        })
    })?;
    // If the helper ended, nobody reads the image; if the image is bad, the helper misses its end.
    match (fed, result) {
        (Some(Ok(Err(error @ (DiskError::Unusable(_) | DiskError::TooLarge { .. })))), _) => {
            Err(unusable(&tag, error).into())
        }
        (_, Err(fault)) => Err(fault.into()),
        (Some(Ok(Ok(()))), Ok(())) => Ok(()),
        (Some(Ok(Err(error))), Ok(())) => Err(worker.internal(&error.to_string()).into()),
        (Some(Err(error)), Ok(())) => Err(worker.internal(&error.to_string()).into()),
        (None, Ok(())) => Err(worker.internal("the image was not copied").into()),
    }
}

/// Makes the seed of a new machine.
pub(super) fn seed(worker: &Worker<'_>, order: &DeployOrder) -> Result<(), Fault> {
    make_seed(worker, order, TRIES)
}

/// Makes the seed of an existing machine anew before it is started, with the keys that its owner has
/// now. If that fails, the machine keeps the one that it has.
pub(super) fn renew_seed(worker: &mut Worker<'_>) {
    let Some(order) = worker.record.order.clone() else { return };
    if !worker.config.image(&order.spec.image).is_ok_and(|settings| settings.disk.is_some()) {
        return;
    }
    if let Err(why) = make_seed(worker, &order, 1) {
        log::event(
            Level::Warning,
            "seed.kept",
            &[("vm", &worker.record.id), ("machine", &worker.record.machine), ("why", &why)],
        );
    }
}

fn make_seed(worker: &Worker<'_>, order: &DeployOrder, tries: u32) -> Result<(), Fault> {
    let Some(cloud_init) = &worker.config.cloud_init else {
        return Err(worker.internal("a whole disk, and no [CloudInit]"));
    };
    let ip = worker.address()?;
    let keys = keys_of(worker, cloud_init, &order.user, tries)?;
    worker.helper.make_seed(order, &worker.record.machine, ip, &keys)
}

/// Fetches the public keys of the machine's owner.
fn keys_of(
    worker: &Worker<'_>,
    cloud_init: &CloudInit,
    user: &UserName,
    tries: u32,
) -> Result<PublicKeys, Fault> {
    let url = cloud_init.keys_of(&user.encoded());
    let client = Client::stranger(&worker.record.request, ANSWER, &worker.config.general.ca_file);
    let named = |why: &dyn std::fmt::Display| fault::detail(&format!("{url}: {why}"));
    let mut answer = client.fetch(&url);
    for _ in 1..tries {
        if !matches!(answer, Err(RemoteError::NotSent(_) | RemoteError::TimedOut(_) | RemoteError::Broken(_)))
        {
            break;
        }
        thread::sleep(PAUSE);
        answer = client.fetch(&url);
    }
    let answer = answer.map_err(|error| Fault::KeysUnreachable { detail: named(&error) })?;
    match answer.status {
        200 => {}
        404 | 410 => return Err(Fault::NoPublicKey { detail: named(&"not found") }),
        status => return Err(Fault::KeysUnreachable { detail: named(&format!("HTTP {status}")) }),
    }
    let text = String::from_utf8_lossy(&answer.body);
    text.parse().map_err(|why| Fault::NoPublicKey { detail: named(&why) })
}

/// Compresses the disk of a stopped machine into an image. What the disk takes is not known before, so
/// no space is reserved; a full disk is noticed while writing.
pub(super) fn pack(worker: &mut Worker<'_>, draft: &mut Draft) -> Result<(), Stop> {
    let (id, machine) = (worker.record.id, worker.record.machine.clone());
    let compression = worker.config.general.saved_images;
    let helper = worker.helper.clone();
    let (packed, result) = worker.while_reporting(Stage::Pack, |progress| {
        helper.pack_disk(id, &machine, |header, pipe| {
            image::enlarge(pipe);
            disk::pack(pipe, draft, header.expected, compression, |read| {
                progress.note(Percent::of(read, header.expected))
            })
        })
    })?;
    worker.packed(packed, result)
}
