//! What can go wrong with a machine, in words that its owner understands. A fault travels from the
//! node to the server as structured data, and is kept with the machine. Its prose is here.

mod consequences;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::names::{ImageName, ImageTag, MachineName, PhysicalHost, SnapshotName, VirtualHost, is_invisible};
use super::size::{Amount, Cpus};
use super::stage::Stage;

/// Why an order about a machine was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum Fault {
    /// The node's configuration has no such image.
    #[error(
        "This host does not know the image {tag}. Choose another host or image, or tell an administrator."
    )]
    ImageUnknown {
        /// The image.
        tag: ImageTag,
    },
    /// The image's file is missing or can't be read.
    #[error(
        "The file of the image {tag} is missing on this host. Choose another image, or tell an administrator."
    )]
    ImageMissing {
        /// The image.
        tag: ImageTag,
    },
    /// The image's file is damaged, truncated, or no archive at all.
    #[error("The image {tag} is damaged ({detail}). Tell an administrator.")]
    ImageCorrupt {
        /// The image.
        tag: ImageTag,
        /// What the unpacker said.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The whole image is in one folder.
    #[error(
        "No machine can be started from the image {tag}: all of it lies in one folder, {folder}, and there is neither an init nor a /boot beside it. Tell an administrator to pack what is in that folder, not the folder (tar -C {folder} -czf IMAGE .)."
    )]
    ImageNested {
        /// The image.
        tag: ImageTag,
        /// The folder.
        #[serde(deserialize_with = "cleaned")]
        folder: String,
    },
    /// The image does not fit into the partition.
    #[error("The image {tag} does not fit into {partition}. Deploy it with a larger partition.")]
    ImageTooLarge {
        /// The image.
        tag: ImageTag,
        /// The size of the root partition.
        partition: Amount,
    },
    /// The whole-disk image is larger than the partition.
    #[error(
        "The image {tag} is a disk of {size}, which does not fit into {partition}. Deploy it with a larger partition."
    )]
    DiskTooLarge {
        /// The image.
        tag: ImageTag,
        /// The size of the disk in it.
        size: Amount,
        /// The size of the root partition.
        partition: Amount,
    },
    /// The owner has no public key, which a machine of a whole-disk image is given.
    #[error(
        "There is no public key of yours where this host looks for it ({detail}), so nobody could log in to the machine. Put your public key for SSH there, and deploy again."
    )]
    NoPublicKey {
        /// Where, and what is there instead.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The public keys can't be fetched.
    #[error(
        "The host can't get your public key ({detail}), so nobody could log in to the machine. Try again later, or tell an administrator."
    )]
    KeysUnreachable {
        /// Where from, and why.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The host has too little free memory.
    #[error(
        "This host has only {free} of memory free, and {needed} are needed. Ask for less, choose another host, or stop or terminate a machine."
    )]
    NotEnoughMemory {
        /// What was asked for.
        needed: Amount,
        /// What is free, less what other deploys reserve.
        free: Amount,
    },
    /// The host gives no machine so many processors.
    #[error(
        "This host gives a machine at most {most}, and {asked} were asked for. Ask for fewer, or choose another host."
    )]
    TooManyCpus {
        /// What was asked for.
        asked: Cpus,
        /// The host's limit.
        most: Cpus,
    },
    /// The volume group has too little free space.
    #[error(
        "This host has only {free} of disk space free, and {needed} are needed. Ask for less, choose another host, or terminate a machine."
    )]
    NotEnoughSpace {
        /// Root and swap together.
        needed: Amount,
        /// What is free, less what other deploys reserve.
        free: Amount,
    },
    /// The volume group that the node's configuration names does not exist.
    #[error("The volume group {name} is missing on this host. Tell an administrator.")]
    VolumeGroupMissing {
        /// Its name.
        #[serde(deserialize_with = "cleaned")]
        name: String,
    },
    /// The directory of the machines' disks is missing, or not safe to use.
    #[error("The disks of machines can't be kept on this host ({detail}). Tell an administrator.")]
    StorageUnusable {
        /// What is wrong.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The machine's name resolves to an address that no machine can have.
    #[error(
        "The name {host} has the address {address}, which {why}. Choose another name, and tell an administrator: its entry in the DNS or /etc/hosts is wrong."
    )]
    AddressUnusable {
        /// The name.
        host: VirtualHost,
        /// Its address.
        address: Ipv4Addr,
        /// What is wrong with it.
        #[serde(deserialize_with = "cleaned")]
        why: String,
    },
    /// Something already answers at the address of the machine's name.
    #[error(
        "Something answers at {address}, the address of {host}, so another machine has it. Choose another name, and tell an administrator."
    )]
    AddressInUse {
        /// The name.
        host: VirtualHost,
        /// Its address.
        address: Ipv4Addr,
    },
    /// Another volume has the name that this machine's is to get.
    #[error(
        "A volume named {volume} is already there on this host, left over from something else. Choose another name or host, or tell an administrator."
    )]
    VolumeExists {
        /// The volume.
        #[serde(deserialize_with = "cleaned")]
        volume: String,
    },
    /// Another domain runs under this machine's name.
    #[error(
        "A machine named {domain} already runs on this host. Choose another name or host, or tell an administrator."
    )]
    DomainExists {
        /// The domain.
        domain: MachineName,
    },
    /// The machine's name has no address.
    #[error(
        "The name {host} has no IPv4 address in the DNS, as this host sees it. Choose another name, or tell an administrator."
    )]
    NameUnresolved {
        /// The name.
        host: VirtualHost,
    },
    /// The template of the machine's configuration can't be rendered, or the toolstack can't read
    /// what it renders to.
    #[error("The configuration template {template} has an error ({detail}). Tell an administrator.")]
    TemplateError {
        /// The template's name.
        #[serde(deserialize_with = "cleaned")]
        template: String,
        /// What is wrong with it.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The hypervisor's toolstack is not installed, or does not answer.
    #[error(
        "The virtualization tools are missing on this host or do not answer ({detail}). Tell an administrator."
    )]
    ToolstackMissing {
        /// What was tried.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// sudo does not let the web server's user run the helper.
    #[error(
        "This host does not let vGrid do its work (sudo refused). Tell an administrator: sudoers lacks vGrid's rule."
    )]
    PrivilegeRefused,
    /// The file system could not be made.
    #[error("The file system could not be made ({detail}). Tell an administrator.")]
    FilesystemFailed {
        /// What the program said.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The toolstack refused to start the machine.
    #[error("The machine could not be started ({detail}).")]
    StartFailed {
        /// What the toolstack said.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The machine was started, but stopped again.
    #[error("The machine was started but did not keep running ({detail}). Its console may say why.")]
    DidNotRun {
        /// What was seen.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The worker of a deploy was killed, or the host went down.
    #[error("The work was interrupted ({}; killed, or the host was restarted or its disk full). What had been made is removed; deploy again.", stage.map_or("before it began".to_owned(), |s| s.to_string()))]
    Interrupted {
        /// How far it had come.
        stage: Option<Stage>,
    },
    /// As [`Interrupted`](Self::Interrupted), but in starting a machine, of which nothing is lost.
    #[error("Starting was interrupted ({}; killed, or the host was restarted or its disk full). The machine is stopped; start it again.", stage.map_or("before it began".to_owned(), |s| s.to_string()))]
    StartInterrupted {
        /// How far it had come.
        stage: Option<Stage>,
    },
    /// The machine could not be stopped.
    #[error("The machine could not be stopped ({detail}). Try again, or tell an administrator.")]
    StopFailed {
        /// What went wrong.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The machine to stop or start is not there.
    #[error("This host has no machine {machine} any more. Terminate it, so that its name is free again.")]
    MachineMissing {
        /// Its name.
        machine: MachineName,
    },
    /// The node has already carried out, or begun, a later order for this machine.
    #[error(
        "This host has a later order about this machine already. Look at the machine's page, and give the order anew."
    )]
    OrderOutdated,
    /// The machine runs, but its kernel was not given the owner's name from the template. The
    /// pygrub of old Xen versions is known to pass on the word `None` in place of `extra`.
    #[error(
        "The machine was started, but its kernel was not told whose it is, so nobody could log in (its command line: {detail}). Tell an administrator: the boot loader loses `extra`; INSTALL.md, \"Boot loaders\", says what helps."
    )]
    ParametersLost {
        /// The kernel's command line.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The machine could not be removed completely.
    #[error(
        "Not everything of the machine could be removed ({detail}). Terminate it again, or tell an administrator."
    )]
    RemovalFailed {
        /// What is left and why.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The disk could not be saved as an image.
    #[error(
        "The disk could not be saved as an image ({detail}). Nothing of the machine is lost; try again, or tell an administrator."
    )]
    SaveFailed {
        /// What went wrong.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// There is no room for the image.
    #[error(
        "The image does not fit on this host's disk for images. Nothing of the machine is lost. Delete saved images that you need no more, or tell an administrator."
    )]
    NoRoomForImage,
    /// The disk's file system yields more data than the disk can hold.
    #[error(
        "The disk was not saved as an image: its file system yields more than the {most} that the disk can hold, so it is damaged, or many files share their content. Nothing of the machine is lost. Start it, have its file system checked (fsck) or those files removed, and save it again."
    )]
    DiskInconsistent {
        /// The size of the largest archive that a sound disk of this size could give.
        most: Amount,
    },
    /// The owner already has an image of that name.
    #[error(
        "There is a saved image called {name} already. Choose another name, or delete or rename that one first."
    )]
    ImageExists {
        /// Its name.
        name: ImageName,
    },
    /// The host no longer has the saved image.
    #[error("The saved image {name} is not on this host any more. Choose another image.")]
    SavedImageMissing {
        /// Its name.
        name: ImageName,
    },
    /// As [`Interrupted`](Self::Interrupted), but in saving a disk.
    #[error(
        "Saving the disk was interrupted (killed, or the host was restarted or its disk full). Nothing of the machine is lost; save it again."
    )]
    SaveInterrupted,
    /// The machine's sizes could not be changed.
    #[error(
        "The machine's sizes could not be changed ({detail}). It is as it was; try again, or tell an administrator."
    )]
    ResizeFailed {
        /// What went wrong.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The host's storage, or the machine's disk, can't have snapshots.
    #[error(
        "The disk of this machine can't have snapshots ({detail}). Stop the machine and save its disk as an image instead."
    )]
    NoSnapshots {
        /// Why.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The machine already has a snapshot of that name.
    #[error(
        "This machine has a snapshot called {name} already. Choose another name, or delete that one first."
    )]
    SnapshotExists {
        /// Its name.
        name: SnapshotName,
    },
    /// The machine has no snapshot of that name.
    #[error("This machine has no snapshot called {name} any more.")]
    SnapshotMissing {
        /// Its name.
        name: SnapshotName,
    },
    /// A snapshot's file system can't be copied.
    #[error(
        "The snapshot {name} can't be copied ({detail}). Start its machine, have its file system checked (fsck), and take another snapshot."
    )]
    SnapshotUnreadable {
        /// Its name.
        name: SnapshotName,
        /// What is wrong with it.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The host keeps no disk of the image as it is now.
    #[error(
        "This host keeps no prepared disk of the image {tag} at the moment. Try again in a quarter of an hour, or deploy a new machine from the image."
    )]
    ImageNotPrepared {
        /// The image.
        tag: ImageTag,
    },
    /// The disk that the host keeps of the image is larger than the machine's.
    #[error(
        "The prepared disk of the image {tag} has {size} on this host, and the disk of this machine only {disk}. Enlarge the machine's disk first, or deploy a new machine from the image."
    )]
    PreparedTooLarge {
        /// The image.
        tag: ImageTag,
        /// The size of the disk that is kept.
        size: Amount,
        /// The size of the machine's disk.
        disk: Amount,
    },
    /// No disk is ever kept to which the machine could go back.
    #[error("This machine can't go back to its image ({detail}). Deploy a new machine instead.")]
    NoWayBack {
        /// Why.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// What can only be done with a stopped machine was ordered for one that runs.
    #[error("The machine {machine} runs on its host. Stop it, and try again.")]
    MachineRuns {
        /// Its name.
        machine: MachineName,
    },
    /// A disk was to become smaller.
    #[error(
        "The disk of this machine has {size} on its host and can't become smaller: what is on it could be cut off. Deploy another machine with a smaller disk, and copy what you need."
    )]
    DiskTooSmall {
        /// The size that it has.
        size: Amount,
    },
    /// The host's configuration does not allow vGrid to remove what it did not make.
    #[error(
        "This host lets vGrid remove only what vGrid made. Set removeStrangers = true under [General] of its node.cfg, or type the command there, as root."
    )]
    StrangersProtected,
    /// What was to be removed as a stranger turns out to be none, or can't be removed.
    #[error(
        "It was left alone: {why}. Look again after the next upkeep, or type the command there, as root."
    )]
    StrangerKept {
        /// Why it was not removed.
        #[serde(deserialize_with = "cleaned")]
        why: String,
    },
    /// A program took too long.
    #[error("{what} did not end within {seconds} s and was stopped. Try again, or tell an administrator.")]
    TimedOut {
        /// What it was to do.
        #[serde(deserialize_with = "cleaned")]
        what: String,
        /// Its time limit.
        seconds: u64,
    },
    /// Anything else; the node's log has the detail.
    #[error("Something went wrong on the host. Tell an administrator the number {request}.")]
    Internal {
        /// The request id under which to find the detail.
        #[serde(deserialize_with = "cleaned")]
        request: String,
    },
    /// The server can't reach the node.
    #[error("The host {host} can't be reached ({detail}). Try again later, or deploy on another host.")]
    HostDown {
        /// The node.
        host: PhysicalHost,
        /// The error of the connection.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The node did not answer in time.
    #[error("The host {host} did not answer within {seconds} s. Try again later, or deploy on another host.")]
    HostSilent {
        /// The node.
        host: PhysicalHost,
        /// The time limit.
        seconds: u64,
    },
    /// What answered is no vGrid node, or a broken one.
    #[error("The host {host} answered something that makes no sense ({detail}). Tell an administrator.")]
    HostGarbled {
        /// The node.
        host: PhysicalHost,
        /// What is wrong with the answer.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The node was too busy to accept an order.
    #[error("The host {host} is busy ({detail}). Nothing was done; try again in a minute.")]
    HostBusy {
        /// The node.
        host: PhysicalHost,
        /// What it said.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
    /// The node does not take orders from this server.
    #[error("The host {host} refused the order (HTTP {status}: {detail}). Tell an administrator.")]
    HostRefused {
        /// The node.
        host: PhysicalHost,
        /// The HTTP status.
        status: u16,
        /// What it said.
        #[serde(deserialize_with = "cleaned")]
        detail: String,
    },
}

/// The most characters of a `detail` that are kept.
const DETAIL_MAX: usize = 200;

/// Deserializes a text, made fit for a sentence (see [`detail`]).
fn cleaned<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|text| detail(&text))
}

/// Makes a program's output fit for a sentence: one line of limited length, nothing invisible.
pub fn detail(text: &str) -> String {
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let line = line.replace(|c: char| c.is_control() || is_invisible(c), " ");
    if line.chars().count() <= DETAIL_MAX {
        line
    } else {
        line.chars().take(DETAIL_MAX).chain("…".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_survive_the_wire() {
        let fault = Fault::NotEnoughMemory { needed: Amount::from_mib(512), free: Amount::from_mib(7) };
        let json = serde_json::to_string(&fault).unwrap();
        assert_eq!(json, r#"{"code":"not-enough-memory","needed":512,"free":7}"#);
        assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
        let fault = Fault::TooManyCpus { asked: Cpus::new(8).unwrap(), most: Cpus::default() };
        let json = serde_json::to_string(&fault).unwrap();
        assert_eq!(json, r#"{"code":"too-many-cpus","asked":8,"most":1}"#);
        assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
        assert!(fault.to_string().starts_with("This host gives a machine at most 1 processor, and 8 proc"));
    }

    #[test]
    fn details_are_one_printable_line() {
        assert_eq!(detail("  a\n\n b\x1b[31m\n"), "a; b [31m");
        assert_eq!(detail("a\u{202e}b"), "a b");
        assert!(detail(&"x".repeat(5000)).chars().count() <= DETAIL_MAX + 1);
    }
}
