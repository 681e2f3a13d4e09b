//! What can go wrong with a machine, in words that its owner understands. A fault travels from the
//! node to the server as structured data, and is kept with the machine. Its prose is here.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::names::{ImageName, ImageTag, MachineName, PhysicalHost, VirtualHost, is_invisible};
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
    /// Neither `xl` nor `xm` is installed, or it does not answer.
    #[error("The Xen tools are missing on this host or do not answer ({detail}). Tell an administrator.")]
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

impl Fault {
    /// Whether the machine got far enough to write to its console, so that its host keeps the
    /// output for the owner to read.
    pub fn leaves_console(&self) -> bool {
        matches!(self, Self::StartFailed { .. } | Self::DidNotRun { .. } | Self::ParametersLost { .. })
    }

    /// The kind of fault, by its name on the wire.
    pub fn code(&self) -> String {
        let json = serde_json::to_value(self).unwrap_or_default();
        json["code"].as_str().unwrap_or("unknown").to_owned()
    }

    /// The image or name that the fault is about; empty if it is about the host itself.
    pub fn subject(&self) -> &str {
        match self {
            Self::ImageUnknown { tag }
            | Self::ImageMissing { tag }
            | Self::ImageCorrupt { tag, .. }
            | Self::ImageNested { tag, .. } => tag.as_str(),
            Self::NameUnresolved { host }
            | Self::AddressUnusable { host, .. }
            | Self::AddressInUse { host, .. } => host.as_str(),
            Self::VolumeExists { volume } => volume,
            Self::DomainExists { domain } => domain.as_str(),
            _ => "",
        }
    }

    /// Whether administrators are told when a deploy fails with this fault: the host can't be used,
    /// or something is wrong there that will affect others too, and that the user can't fix.
    pub fn concerns_administrators(&self) -> bool {
        self.is_the_hosts_own()
            || matches!(
                self,
                Self::ImageUnknown { .. }
                    | Self::ImageMissing { .. }
                    | Self::ImageCorrupt { .. }
                    | Self::ImageNested { .. }
                    | Self::VolumeExists { .. }
                    | Self::DomainExists { .. }
                    | Self::NameUnresolved { .. }
                    | Self::AddressUnusable { .. }
                    | Self::AddressInUse { .. }
                    | Self::TemplateError { .. }
                    | Self::FilesystemFailed { .. }
                    | Self::ParametersLost { .. }
                    | Self::RemovalFailed { .. }
            )
    }

    /// The HTTP status that tells programs of the fault: 503 if trying again helps, 502 if the host
    /// could not be used, 409 if it had a reason to refuse.
    pub fn status(&self) -> u16 {
        self.blame().statuses().page
    }

    /// The HTTP status with which a node refuses an order for it.
    pub fn node_status(&self) -> u16 {
        self.blame().statuses().node
    }

    /// Whether a deploy that failed with this fault is worth trying on another host.
    ///
    /// Not if it is unclear whether the host refused it, or what refused it
    /// ([`HostRefused`](Self::HostRefused)): the machine could then exist twice. Nor if the machine
    /// has run: its console output is on that host, for the owner to read.
    pub fn sends_elsewhere(&self) -> bool {
        match self {
            Self::HostDown { .. }
            | Self::HostBusy { .. }
            | Self::ToolstackMissing { .. }
            | Self::VolumeGroupMissing { .. }
            | Self::StorageUnusable { .. }
            | Self::PrivilegeRefused
            | Self::NotEnoughMemory { .. }
            | Self::TooManyCpus { .. }
            | Self::NotEnoughSpace { .. }
            | Self::ImageUnknown { .. }
            | Self::ImageMissing { .. }
            | Self::ImageCorrupt { .. }
            | Self::TemplateError { .. }
            | Self::FilesystemFailed { .. }
            | Self::VolumeExists { .. }
            | Self::DomainExists { .. }
            | Self::NameUnresolved { .. }
            | Self::Interrupted { .. }
            | Self::TimedOut { .. }
            | Self::Internal { .. } => true,
            // The host may have accepted it all the same.
            Self::HostSilent { .. }
            | Self::HostGarbled { .. }
            | Self::HostRefused { .. }
            // Every host would say the same.
            | Self::ImageNested { .. }
            | Self::ImageTooLarge { .. }
            | Self::AddressUnusable { .. }
            | Self::AddressInUse { .. }
            // The machine has been started there.
            | Self::StartFailed { .. }
            | Self::DidNotRun { .. }
            | Self::ParametersLost { .. }
            // Not about a deploy, or about something that only this host has.
            | Self::StartInterrupted { .. }
            | Self::StopFailed { .. }
            | Self::MachineMissing { .. }
            | Self::OrderOutdated
            | Self::RemovalFailed { .. }
            | Self::SaveFailed { .. }
            | Self::NoRoomForImage
            | Self::DiskInconsistent { .. }
            | Self::ImageExists { .. }
            | Self::SavedImageMissing { .. }
            | Self::SaveInterrupted
            | Self::StrangersProtected
            | Self::StrangerKept { .. } => false,
        }
    }

    /// Whether the host could not be used at all, as opposed to having a reason to refuse this
    /// order.
    pub fn is_the_hosts_own(&self) -> bool {
        matches!(self.blame(), Blame::Host | Blame::Connection)
    }

    /// What is to blame for it; [`Blame::statuses`] has the HTTP statuses that follow from that.
    fn blame(&self) -> Blame {
        match self {
            Self::ToolstackMissing { .. }
            | Self::VolumeGroupMissing { .. }
            | Self::StorageUnusable { .. }
            | Self::PrivilegeRefused
            | Self::Internal { .. }
            | Self::TimedOut { .. } => Blame::Host,
            Self::HostDown { .. }
            | Self::HostSilent { .. }
            | Self::HostGarbled { .. }
            | Self::HostRefused { .. } => Blame::Connection,
            Self::HostBusy { .. } => Blame::Load,
            _ => Blame::Order,
        }
    }
}

/// What is to blame for a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// The order: the host has a reason to refuse this one.
    Order,
    /// The host, which can carry out no order at present.
    Host,
    /// The connection to the host, or what answers in its place. Only the server finds that out.
    Connection,
    /// The host's load. Only the server says so; a busy node refuses without a fault.
    Load,
}

/// The HTTP statuses of a fault.
struct Statuses {
    /// Of the server's page.
    page: u16,
    /// Of the node's refusal.
    node: u16,
}

impl Blame {
    /// A node that is out of order calls itself unavailable (503); for the server's callers it is a
    /// bad gateway (502). A node never has the faults that only the server finds out.
    fn statuses(self) -> Statuses {
        match self {
            Self::Order => Statuses { page: 409, node: 409 },
            Self::Host => Statuses { page: 502, node: 503 },
            Self::Connection => Statuses { page: 502, node: 409 },
            Self::Load => Statuses { page: 503, node: 409 },
        }
    }
}

/// The most characters of a `detail` that are kept.
const DETAIL_MAX: usize = 200;

/// Deserialises a text, made fit for a sentence (see [`detail`]).
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
    fn a_fault_has_a_status_for_nodes_and_one_for_pages() {
        let host: PhysicalHost = "node1".parse().unwrap();
        let text = || "x".to_owned();
        let statuses = |fault: Fault| (fault.node_status(), fault.status());
        for of_the_host in [
            Fault::PrivilegeRefused,
            Fault::ToolstackMissing { detail: text() },
            Fault::VolumeGroupMissing { name: text() },
            Fault::StorageUnusable { detail: text() },
            Fault::TimedOut { what: text(), seconds: 1 },
            Fault::Internal { request: text() },
        ] {
            assert_eq!(statuses(of_the_host), (503, 502));
        }
        for of_the_connection in [
            Fault::HostDown { host: host.clone(), detail: text() },
            Fault::HostSilent { host: host.clone(), seconds: 1 },
            Fault::HostGarbled { host: host.clone(), detail: text() },
            Fault::HostRefused { host: host.clone(), status: 403, detail: text() },
        ] {
            assert_eq!(statuses(of_the_connection), (409, 502));
        }
        assert_eq!(statuses(Fault::HostBusy { host, detail: text() }), (409, 503));
        assert_eq!(statuses(Fault::OrderOutdated), (409, 409));
        assert_eq!(statuses(Fault::StrangersProtected), (409, 409));
    }

    #[test]
    fn administrators_hear_of_what_its_user_is_to_tell_them() {
        let host: PhysicalHost = "node1".parse().unwrap();
        let tag: ImageTag = "tiny".parse().unwrap();
        let amount = Amount::from_mib(1);
        let text = || "x".to_owned();
        // All faults that a deploy can end with.
        let faults = [
            Fault::ImageUnknown { tag: tag.clone() },
            Fault::ImageMissing { tag: tag.clone() },
            Fault::ImageCorrupt { tag: tag.clone(), detail: text() },
            Fault::ImageNested { tag: tag.clone(), folder: text() },
            Fault::ImageTooLarge { tag, partition: amount },
            Fault::NotEnoughMemory { needed: amount, free: amount },
            Fault::TooManyCpus { asked: Cpus::new(2).unwrap(), most: Cpus::default() },
            Fault::NotEnoughSpace { needed: amount, free: amount },
            Fault::VolumeGroupMissing { name: text() },
            Fault::StorageUnusable { detail: text() },
            Fault::VolumeExists { volume: text() },
            Fault::DomainExists { domain: "a_vm1".parse().unwrap() },
            Fault::NameUnresolved { host: "vm1".parse().unwrap() },
            Fault::TemplateError { template: text(), detail: text() },
            Fault::ToolstackMissing { detail: text() },
            Fault::PrivilegeRefused,
            Fault::FilesystemFailed { detail: text() },
            Fault::StartFailed { detail: text() },
            Fault::DidNotRun { detail: text() },
            Fault::Interrupted { stage: None },
            Fault::ParametersLost { detail: text() },
            Fault::RemovalFailed { detail: text() },
            Fault::SavedImageMissing { name: "x".parse().unwrap() },
            Fault::TimedOut { what: text(), seconds: 1 },
            Fault::Internal { request: text() },
            Fault::HostDown { host: host.clone(), detail: text() },
            Fault::HostSilent { host: host.clone(), seconds: 1 },
            Fault::HostGarbled { host: host.clone(), detail: text() },
            Fault::HostRefused { host, status: 403, detail: text() },
        ];
        for fault in faults {
            let told = fault.to_string().to_lowercase().contains("tell an administrator");
            assert_eq!(fault.concerns_administrators(), told || fault.is_the_hosts_own(), "{fault}");
        }
    }

    #[test]
    fn details_are_one_printable_line() {
        assert_eq!(detail("  a\n\n b\x1b[31m\n"), "a; b [31m");
        assert_eq!(detail("a\u{202e}b"), "a b");
        assert!(detail(&"x".repeat(5000)).chars().count() <= DETAIL_MAX + 1);
    }
}
