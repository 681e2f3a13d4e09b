//! What follows from a fault: whom it concerns, whether another host is worth a try, which HTTP
//! status it has.

use super::Fault;

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
                    | Self::KeysUnreachable { .. }
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
            | Self::KeysUnreachable { .. }
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
            | Self::DiskTooLarge { .. }
            | Self::NoPublicKey { .. }
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
            | Self::ResizeFailed { .. }
            | Self::NoSnapshots { .. }
            | Self::SnapshotExists { .. }
            | Self::SnapshotMissing { .. }
            | Self::SnapshotUnreadable { .. }
            | Self::ImageNotPrepared { .. }
            | Self::PreparedTooLarge { .. }
            | Self::NoWayBack { .. }
            | Self::MachineRuns { .. }
            | Self::DiskTooSmall { .. }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::{ImageTag, PhysicalHost};
    use crate::model::size::{Amount, Cpus};

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
            Fault::DiskTooLarge { tag: tag.clone(), size: amount, partition: amount },
            Fault::NoPublicKey { detail: text() },
            Fault::KeysUnreachable { detail: text() },
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
}
