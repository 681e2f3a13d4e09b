//! What a definition may contain: each place in it that vGrid knows to name no file, program or
//! device of the host, or whose content it compares with the machine's own.
//!
//! A place is written as its path below `domain`. All else is refused, also what a later libvirt
//! may add. The names are those of libvirt's "Domain XML format", at libvirt 9.0.

/// What an element may contain besides other elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// Nothing.
    Nothing,
    /// A word or number of libvirt's.
    Word,
    /// Anything: the guest or nobody reads it.
    Free,
    /// Elements of other programs', which libvirt only keeps.
    Foreign,
}

/// A kind of element.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The path, in which `*` stands for any device.
    pub path: &'static str,
    /// The attributes that it may have, separated by blanks.
    pub attributes: &'static str,
    /// What it may contain.
    pub text: Text,
    /// Whether its parent may have several of it.
    pub repeats: bool,
}

const fn place(path: &'static str, attributes: &'static str) -> Place {
    Place { path, attributes, text: Text::Nothing, repeats: false }
}

const fn word(path: &'static str, attributes: &'static str) -> Place {
    Place { text: Text::Word, ..place(path, attributes) }
}

const fn free(path: &'static str, attributes: &'static str) -> Place {
    Place { text: Text::Free, ..place(path, attributes) }
}

const fn many(place: Place) -> Place {
    Place { repeats: true, ..place }
}

/// All places. Whatever has `file`, `dev` or `source` in its name is also in [`CHOICES`], or is
/// compared with the machine's own in `definition.rs`.
pub const PLACES: &[Place] = &[
    place("", "type"),
    word("name", ""),
    word("uuid", ""),
    free("title", ""),
    free("description", ""),
    Place { text: Text::Foreign, ..place("metadata", "") },
    word("memory", "unit dumpCore"),
    word("currentMemory", "unit"),
    word("vcpu", "placement cpuset current"),
    place("cputune", ""),
    word("cputune/shares", ""),
    word("cputune/period", ""),
    word("cputune/quota", ""),
    word("cputune/global_period", ""),
    word("cputune/global_quota", ""),
    many(place("cputune/vcpupin", "vcpu cpuset")),
    place("cputune/emulatorpin", "cpuset"),
    place("blkiotune", ""),
    word("blkiotune/weight", ""),
    place("memtune", ""),
    word("memtune/hard_limit", "unit"),
    word("memtune/soft_limit", "unit"),
    word("memtune/swap_hard_limit", "unit"),
    place("numatune", ""),
    place("numatune/memory", "mode nodeset placement"),
    place("memoryBacking", ""),
    place("memoryBacking/hugepages", ""),
    many(place("memoryBacking/hugepages/page", "size unit nodeset")),
    place("memoryBacking/nosharepages", ""),
    place("memoryBacking/locked", ""),
    place("os", ""),
    word("os/type", "arch machine"),
    word("os/kernel", ""),
    free("os/cmdline", ""),
    many(place("os/boot", "dev")),
    place("os/bootmenu", "enable timeout"),
    place("os/bios", "useserial rebootTimeout"),
    place("os/smbios", "mode"),
    place("sysinfo", "type"),
    place("sysinfo/bios", ""),
    many(free("sysinfo/bios/entry", "name")),
    place("sysinfo/system", ""),
    many(free("sysinfo/system/entry", "name")),
    many(place("sysinfo/baseBoard", "")),
    many(free("sysinfo/baseBoard/entry", "name")),
    place("sysinfo/chassis", ""),
    many(free("sysinfo/chassis/entry", "name")),
    place("sysinfo/oemStrings", ""),
    many(free("sysinfo/oemStrings/entry", "")),
    place("features", ""),
    place("features/acpi", ""),
    place("features/apic", "eoi"),
    place("features/pae", ""),
    place("features/pmu", "state"),
    place("features/vmport", "state"),
    place("features/smm", "state"),
    place("features/kvm", ""),
    place("features/kvm/hidden", "state"),
    place("features/kvm/poll-control", "state"),
    place("cpu", "mode match check migratable"),
    word("cpu/model", "fallback vendor_id"),
    word("cpu/vendor", ""),
    place("cpu/topology", "sockets dies clusters cores threads"),
    many(place("cpu/feature", "policy name")),
    place("cpu/cache", "level mode"),
    place("cpu/maxphysaddr", "mode bits"),
    place("clock", "offset adjustment basis"),
    many(place("clock/timer", "name tickpolicy present track frequency mode")),
    word("on_poweroff", ""),
    word("on_reboot", ""),
    word("on_crash", ""),
    place("pm", ""),
    place("pm/suspend-to-mem", "enabled"),
    place("pm/suspend-to-disk", "enabled"),
    place("devices", ""),
    // Of any device.
    place("devices/*/alias", "name"),
    place("devices/*/address", "type domain bus slot function multifunction controller target unit port"),
    place("devices/*/boot", "order"),
    place("devices/*/acpi", "index"),
    many(place("devices/disk", "type device model")),
    place(
        "devices/disk/driver",
        "name type cache io discard detect_zeroes error_policy rerror_policy ioeventfd event_idx queues queue_size iothread",
    ),
    place("devices/disk/source", "file dev"),
    place("devices/disk/target", "dev bus removable rotation_rate"),
    place("devices/disk/readonly", ""),
    word("devices/disk/serial", ""),
    word("devices/disk/wwn", ""),
    word("devices/disk/vendor", ""),
    word("devices/disk/product", ""),
    place("devices/disk/blockio", "logical_block_size physical_block_size discard_granularity"),
    place("devices/disk/iotune", ""),
    word("devices/disk/iotune/total_bytes_sec", ""),
    word("devices/disk/iotune/read_bytes_sec", ""),
    word("devices/disk/iotune/write_bytes_sec", ""),
    word("devices/disk/iotune/total_iops_sec", ""),
    word("devices/disk/iotune/read_iops_sec", ""),
    word("devices/disk/iotune/write_iops_sec", ""),
    many(place("devices/controller", "type index model ports vectors")),
    place("devices/controller/driver", "queues cmd_per_lun max_sectors ioeventfd iothread"),
    place("devices/controller/model", "name"),
    place("devices/controller/target", "chassisNr chassis port busNr hotplug"),
    many(place("devices/interface", "type")),
    place("devices/interface/source", "bridge network portgroup"),
    place("devices/interface/mac", "address"),
    place("devices/interface/model", "type"),
    place("devices/interface/driver", "name txmode ioeventfd event_idx queues rx_queue_size tx_queue_size"),
    place("devices/interface/link", "state"),
    place("devices/interface/mtu", "size"),
    place("devices/interface/port", "isolated"),
    place("devices/interface/rom", "enabled bar"),
    place("devices/interface/bandwidth", ""),
    place("devices/interface/bandwidth/inbound", "average peak burst floor"),
    place("devices/interface/bandwidth/outbound", "average peak burst"),
    place("devices/interface/filterref", "filter"),
    many(place("devices/interface/filterref/parameter", "name value")),
    place("devices/interface/vlan", "trunk"),
    many(place("devices/interface/vlan/tag", "id nativeMode")),
    place("devices/interface/virtualport", "type"),
    place("devices/interface/virtualport/parameters", "profileid interfaceid"),
    many(place("devices/serial", "type")),
    place("devices/serial/log", "file append"),
    place("devices/serial/target", "type port"),
    place("devices/serial/target/model", "name"),
    many(place("devices/console", "type")),
    place("devices/console/log", "file append"),
    place("devices/console/target", "type port"),
    many(place("devices/channel", "type")),
    place("devices/channel/source", "mode"),
    place("devices/channel/target", "type name"),
    many(place("devices/input", "type bus model")),
    many(place("devices/graphics", "type keymap sharePolicy")),
    many(place("devices/graphics/listen", "type")),
    many(place("devices/video", "")),
    place("devices/video/model", "type vram vgamem heads primary"),
    place("devices/video/model/resolution", "x y"),
    many(place("devices/audio", "id type")),
    many(place("devices/watchdog", "model action")),
    many(place("devices/memballoon", "model autodeflate freePageReporting")),
    place("devices/memballoon/stats", "period"),
    many(place("devices/rng", "model")),
    place("devices/rng/backend", "model"),
    place("devices/rng/rate", "bytes period"),
    many(place("devices/panic", "model")),
];

/// The values of an attribute, or of an element's text if the attribute's name is empty, where
/// others would name something of the host, or write to it.
pub const CHOICES: &[(&str, &str, &[&str])] = &[
    ("os/type", "", &["hvm"]),
    // "host" shows the guest the serial numbers of the host.
    ("os/smbios", "mode", &["sysinfo", "emulate"]),
    ("sysinfo", "type", &["smbios"]),
    // coredump-destroy and the like dump the guest's memory into a file.
    ("on_poweroff", "", &["destroy", "restart", "preserve", "rename-restart"]),
    ("on_reboot", "", &["destroy", "restart", "preserve", "rename-restart"]),
    ("on_crash", "", &["destroy", "restart", "preserve", "rename-restart"]),
    ("devices/disk", "type", &["file", "block"]),
    // "lun" hands SCSI commands on to the host's disk.
    ("devices/disk", "device", &["disk"]),
    ("devices/disk/driver", "name", &["qemu"]),
    // In any other format the guest could write the name of a file of the host's into its disk.
    ("devices/disk/driver", "type", &["raw"]),
    ("devices/controller", "type", &["pci", "usb", "scsi", "sata", "ide", "virtio-serial"]),
    ("devices/interface", "type", &["bridge", "network"]),
    ("devices/interface/driver", "name", &["qemu", "vhost"]),
    ("devices/interface/virtualport", "type", &["openvswitch"]),
    ("devices/serial", "type", &["pty", "null"]),
    ("devices/console", "type", &["pty", "null"]),
    // libvirt chooses the path of the socket.
    ("devices/channel", "type", &["unix"]),
    ("devices/channel/source", "mode", &["bind"]),
    ("devices/channel/target", "type", &["virtio"]),
    ("devices/input", "type", &["mouse", "keyboard", "tablet"]),
    ("devices/graphics", "type", &["vnc"]),
    // A port would be open to everybody on the host, if not beyond.
    ("devices/graphics/listen", "type", &["socket", "none"]),
    ("devices/audio", "type", &["none"]),
    ("devices/watchdog", "action", &["reset", "shutdown", "poweroff", "pause", "none", "inject-nmi"]),
    ("devices/rng/backend", "model", &["builtin"]),
];

/// Attributes without which libvirt would choose what is not allowed, or what depends on its
/// version.
pub const REQUIRED_ATTRIBUTES: &[(&str, &str)] = &[
    ("", "type"),
    ("sysinfo", "type"),
    ("devices/disk", "type"),
    ("devices/disk/driver", "type"),
    ("devices/interface", "type"),
    ("devices/serial", "type"),
    ("devices/console", "type"),
    ("devices/channel", "type"),
    ("devices/channel/target", "type"),
    ("devices/graphics", "type"),
    ("devices/graphics/listen", "type"),
    ("devices/audio", "type"),
    ("devices/rng/backend", "model"),
];

/// Elements without which the same would happen.
pub const REQUIRED_ELEMENTS: &[(&str, &str)] = &[
    ("", "name"),
    ("", "devices"),
    ("devices/disk", "driver"),
    ("devices/disk", "source"),
    ("devices/channel", "target"),
    ("devices/graphics", "listen"),
    ("devices/rng", "backend"),
];

/// Returns what is known of the place with this path.
pub fn find(path: &str) -> Option<&'static Place> {
    let of_any_device = || {
        let (_, below) = path.strip_prefix("devices/")?.split_once('/')?;
        PLACES.iter().find(|place| place.path.strip_prefix("devices/*/") == Some(below))
    };
    PLACES.iter().find(|place| place.path == path).or_else(of_any_device)
}

/// Returns the values that an attribute may have, or with an empty name an element's text; `None`
/// if it may be any word.
pub fn choices(path: &str, attribute: &str) -> Option<&'static [&'static str]> {
    CHOICES.iter().find(|(p, a, _)| *p == path && *a == attribute).map(|(_, _, values)| *values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_fit_together() {
        for (at, place) in PLACES.iter().enumerate() {
            assert!(!PLACES[..at].iter().any(|other| other.path == place.path), "{} twice", place.path);
            let parent = place.path.rsplit_once('/').map_or("", |(parent, _)| parent);
            assert!(parent == "devices/*" || find(parent).is_some(), "{} has no parent", place.path);
        }
        let has = |path: &str, name: &str| {
            find(path).is_some_and(|place| place.attributes.split(' ').any(|known| known == name))
        };
        for (path, name, _) in CHOICES {
            assert!(has(path, name) || name.is_empty() && find(path).unwrap().text == Text::Word, "{path}");
        }
        for (path, name) in REQUIRED_ATTRIBUTES {
            assert!(has(path, name), "{path} {name}");
        }
        for (path, name) in REQUIRED_ELEMENTS {
            let child = if path.is_empty() { (*name).to_owned() } else { format!("{path}/{name}") };
            assert!(find(&child).is_some(), "{child}");
        }
    }

    #[test]
    fn what_could_name_something_of_the_host_is_not_known() {
        for path in [
            "os/loader",
            "os/nvram",
            "os/initrd",
            "os/dtb",
            "os/acpi",
            "os/shim",
            "devices/emulator",
            "devices/hostdev",
            "devices/filesystem",
            "devices/shmem",
            "devices/tpm",
            "devices/smartcard",
            "devices/redirdev",
            "devices/lease",
            "devices/parallel",
            "devices/vsock",
            "devices/nvram",
            "devices/memory",
            "devices/interface/script",
            "devices/interface/backend",
            "devices/interface/target",
            "devices/disk/backingStore",
            "devices/disk/mirror",
            "devices/disk/source/seclabel",
            "devices/serial/source",
            "devices/input/source",
            "seclabel",
            "launchSecurity",
            "qemu:commandline",
            "commandline",
            "devices/disk/encryption",
            "keywrap",
            "devices/disk/shareable",
            "devices/disk/transient",
            "idmap",
            "perf",
            "bootloader",
            "init",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
        assert!(find("devices/disk/alias").is_some() && find("devices/disk/alias/alias").is_none());
        assert!(find("alias").is_none() && find("os/alias").is_none() && find("devices/alias").is_none());
    }
}
