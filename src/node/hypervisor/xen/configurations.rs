//! The configuration files of machines.
//!
//! They are in the directory from which the toolstack starts machines at boot. A stopped machine
//! keeps its configuration there under another name, which the toolstack ignores.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use uuid::Uuid;

use super::Xen;
use crate::model::names::{MachineName, VmId};
use crate::node::hypervisor::{HypervisorError, Installed};
use crate::node::{Machine, files, trust};

/// The beginning of an installed configuration; the rest of the line identifies the machine.
const HEADER: &str = "# vGrid machine ";

/// How much of a configuration is read, in bytes.
const LONGEST: u64 = 64 << 10;

impl Xen {
    /// Returns the directory from which the toolstack starts machines at boot, after checking it.
    pub(super) fn auto_directory(&self) -> Result<PathBuf, HypervisorError> {
        Ok(trust::directory(&self.auto)?)
    }

    /// Returns the path of a machine's configuration, whether or not it exists.
    pub(super) fn config_file(&self, machine: &MachineName) -> Result<PathBuf, HypervisorError> {
        Ok(self.auto_directory()?.join(format!("{machine}.cfg")))
    }
}

/// A configuration created by vGrid.
pub(super) struct Configuration {
    file: PathBuf,
    uuid: Option<Uuid>,
}

impl Configuration {
    /// Reads a file. Returns `None` if it is not a regular file, or does not begin like one of
    /// vGrid's configurations.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let beginning = || {
            let mut bytes = Vec::new();
            if std::fs::symlink_metadata(path)?.is_file() {
                let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
                file.take(200).read_to_end(&mut bytes)?;
            }
            Ok::<_, io::Error>(bytes)
        };
        let bytes = match beginning() {
            // Removed since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.strip_prefix(HEADER).map(|rest| Self {
            file: path.to_owned(),
            uuid: rest.split_whitespace().next().and_then(|id| Uuid::try_parse(id).ok()),
        }))
    }

    /// Adds the name of its domain, which is that of the file. It is empty if a machine, running or
    /// stopped, has no configuration of that name.
    pub(super) fn installed(self) -> Installed {
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let aside = || name.strip_prefix('.')?.strip_suffix(".cfg.stopped");
        let name = aside().or_else(|| name.strip_suffix(".cfg")).unwrap_or_default().to_owned();
        Installed { file: self.file, name, uuid: self.uuid }
    }
}

/// Makes a complete configuration of a rendered template. The UUID comes last, so that it overrides
/// whatever the template contains.
pub(super) fn complete(machine: &Machine, text: &str) -> String {
    format!("{}\n{}\nuuid = \"{}\"\n", header(machine.id), text.trim_end(), machine.id)
}

/// Corrects the line number in an error for the header, which takes one line.
pub(super) fn without_header(error: HypervisorError) -> HypervisorError {
    match error {
        HypervisorError::Definition { line: Some(line), detail } => {
            HypervisorError::Definition { line: Some(line.saturating_sub(1)), detail }
        }
        other => other,
    }
}

/// Returns the first line of a machine's configuration.
fn header(id: VmId) -> String {
    format!("{HEADER}{id} - made and removed by vGrid")
}

/// Returns whether a file is the configuration of the machine with this id.
pub(super) fn is_installed(file: &Path, id: VmId) -> bool {
    let open = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(file);
    let mut beginning = String::new();
    let expected = format!("{}\n", header(id));
    open.is_ok_and(|file| file.take(expected.len() as u64).read_to_string(&mut beginning).is_ok())
        && beginning == expected
}

/// Returns the path to which a configuration is written before it is installed. The name begins
/// with a dot so that xendomains ignores it.
pub(super) fn temporary(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.new"))
}

/// Returns the path at which a stopped machine's configuration is kept. The name begins with a dot
/// for the same reason as in [`temporary`].
pub(super) fn parked(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.stopped"))
}

/// Reads a configuration, up to a limit; empty if there is no such file.
pub(super) fn read(file: &Path) -> Result<String, HypervisorError> {
    Ok(files::read_text(file, LONGEST)?)
}

/// Returns whether the toolstack restarts a machine with this configuration after a shutdown
/// (xl.cfg(5), `on_poweroff`).
pub(super) fn restarts(config: &str) -> bool {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "on_poweroff").then(|| value.contains("restart"))
    };
    // The last one counts, for xl and for Python.
    config.lines().filter_map(value).next_back().unwrap_or(false)
}

/// Returns the bridges that a configuration refers to as `bridge=NAME`.
pub(super) fn bridges(config: &str) -> Vec<String> {
    let mut bridges = Vec::new();
    for line in config.lines().filter(|line| !line.trim_start().starts_with('#')) {
        for (at, word) in line.match_indices("bridge=") {
            let rest = &line[at + word.len()..];
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.:".contains(c)));
            bridges.push(rest[..end.unwrap_or(rest.len())].to_owned());
        }
    }
    bridges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_recognized_by_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a_vm1.cfg");
        let id = VmId::generate();
        assert!(!is_installed(&file, id));
        std::fs::write(&file, format!("{}\nname = \"a_vm1\"\n", header(id))).unwrap();
        assert!(is_installed(&file, id));
        assert!(!is_installed(&file, VmId::generate()));
        let link = dir.path().join("link.cfg");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(!is_installed(&link, id), "a symlink is not accepted");
        assert_eq!(temporary(&file).file_name().unwrap(), ".a_vm1.cfg.new");
    }

    #[test]
    fn configurations_are_listed_with_their_machines() {
        let dir = tempfile::tempdir().unwrap();
        let id = VmId::generate();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let made =
            |name: &str| Configuration::read(&dir.path().join(name)).unwrap().map(Configuration::installed);
        put("alice_vm1.cfg", &format!("{HEADER}{id} - made and removed by vGrid\nname = 'x'\n"));
        put(".bob_vm2.cfg.stopped", &format!("{HEADER}changed by hand"));
        put(".carol_vm3.cfg.new", &format!("{HEADER}{id}"));
        put("other.cfg", "name = 'other'\n");
        std::os::unix::fs::symlink(dir.path().join("alice_vm1.cfg"), dir.path().join("link.cfg")).unwrap();
        let alice = made("alice_vm1.cfg").unwrap();
        assert_eq!((alice.name.as_str(), alice.uuid), ("alice_vm1", Uuid::try_parse(&id.to_string()).ok()));
        let bob = made(".bob_vm2.cfg.stopped").unwrap();
        assert_eq!((bob.name.as_str(), bob.uuid), ("bob_vm2", None));
        assert_eq!(made(".carol_vm3.cfg.new").unwrap().machine(), None);
        assert!(made("other.cfg").is_none() && made("link.cfg").is_none());
        assert!(made("").is_none(), "a directory is no configuration");
        assert!(made("gone.cfg").is_none());
    }

    #[test]
    fn bridges_are_found_in_configurations() {
        let text = "# bridge=no\nvif = [ \"bridge=xenbr0\", 'mac=00:16:3e:0:0:1,bridge=br.1,script=x' ]\nvif2=\"bridge=xenbr0\"\n";
        assert_eq!(bridges(text), ["xenbr0", "br.1", "xenbr0"]);
    }

    #[test]
    fn the_last_on_poweroff_decides() {
        assert!(!restarts("name = 'x'\n"));
        assert!(restarts("on_poweroff = 'restart'\n"));
        assert!(restarts("on_poweroff=\"destroy\"\non_poweroff = \"coredump-restart\"\n"));
        assert!(!restarts("on_poweroff = 'restart'\non_poweroff = 'destroy'\non_reboot = 'restart'\n"));
        assert!(!restarts("# on_poweroff = 'restart'\n"));
    }
}
