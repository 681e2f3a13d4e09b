//! The names of packages and services on this host's distribution, for remedies.

use std::path::Path;

/// A family of distributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and others with apt.
    Debian,
    /// RHEL, its rebuilds, and Fedora.
    RedHat,
}

impl Family {
    /// Returns this host's.
    pub fn here() -> Self {
        Self::of(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    /// Reads it from an os-release(5). Unknown ones count as Debian, which vGrid is made on.
    fn of(os_release: &str) -> Self {
        let is_red_hat = os_release
            .lines()
            .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
            .flat_map(|value| value.trim_matches(['"', '\'']).split_whitespace())
            .any(|id| ["rhel", "fedora", "centos"].contains(&id));
        if is_red_hat { Self::RedHat } else { Self::Debian }
    }

    /// Returns the command that installs packages, given their names in either family.
    pub fn install(self, debian: &str, red_hat: &str) -> String {
        match self {
            Self::Debian => format!("apt-get install {debian}"),
            Self::RedHat => format!("dnf install {red_hat}"),
        }
    }

    /// Returns libvirt's service for machines of QEMU: one daemon for all, or one for each purpose,
    /// as on RHEL since version 9.
    pub fn libvirt_service(self) -> &'static str {
        let is_modular = Path::new("/run/libvirt/virtqemud-sock").exists();
        if is_modular || self == Self::RedHat { "virtqemud" } else { "libvirtd" }
    }

    /// Returns libvirt's service for machines of Xen: one daemon for all, or one for each purpose.
    pub fn xen_libvirt_service(self) -> &'static str {
        let is_modular = Path::new("/run/libvirt/virtxend-sock").exists();
        if is_modular || self == Self::RedHat { "virtxend" } else { "libvirtd" }
    }
}

/// Returns the command that installs packages on this host.
pub fn install(debian: &str, red_hat: &str) -> String {
    Family::here().install(debian, red_hat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_is_read_from_os_release() {
        for (text, family) in [
            ("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n", Family::Debian),
            ("ID=ubuntu\nID_LIKE=debian\n", Family::Debian),
            ("NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", Family::RedHat),
            ("ID=fedora\n", Family::RedHat),
            ("ID=\"rhel\"\nID_LIKE='fedora'\n", Family::RedHat),
            ("BUILD_ID=rhel\n", Family::Debian),
            ("", Family::Debian),
        ] {
            assert_eq!(Family::of(text), family, "{text}");
        }
        assert_eq!(Family::Debian.install("a", "b"), "apt-get install a");
        assert_eq!(Family::RedHat.install("a", "b"), "dnf install b");
    }
}
