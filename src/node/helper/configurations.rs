//! The configurations of machines that vGrid has installed on this host.
//!
//! They are in the directory from which the toolstack starts machines at boot. A stopped machine
//! keeps its configuration there under another name, which the toolstack ignores.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::failure::Failure;
use super::host::Host;
use super::{files, trust};
use crate::model::names::{MachineName, VmId};
use crate::node::hypervisor::Listed;

/// The beginning of an installed configuration; the rest of the line identifies the machine.
const HEADER: &str = "# vGrid machine ";

/// How much of a configuration is read, in bytes.
const LONGEST: u64 = 64 << 10;

impl Host {
    /// Returns the directory from which the toolstack starts machines at boot, after checking it.
    fn auto_directory(&self) -> Result<PathBuf, Failure> {
        trust::directory(&self.config.general.xen_auto_directory)
    }

    /// Returns the path of a machine's configuration, whether or not it exists.
    pub(super) fn config_file(&self, machine: &MachineName) -> Result<PathBuf, Failure> {
        Ok(self.auto_directory()?.join(format!("{machine}.cfg")))
    }

    /// Lists all configurations created by vGrid, of running and of stopped machines.
    pub(super) fn configurations(&self) -> Result<Vec<Made>, Failure> {
        let dir = self.auto_directory()?;
        let unread =
            |path: &Path, error: &io::Error| Failure::internal(format!("{}: {error}", path.display()));
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(|error| unread(&dir, &error))? {
            let path = entry.map_err(|error| unread(&dir, &error))?.path();
            all.extend(Made::read(&path).map_err(|error| unread(&path, &error))?);
        }
        Ok(all)
    }
}

/// A configuration created by vGrid.
pub(super) struct Made {
    /// The file's path.
    pub(super) path: PathBuf,
    /// The machine's id, unless the file has been edited.
    id: Option<VmId>,
}

impl Made {
    /// Reads a file. Returns `None` if it is not a regular file, or does not begin like one of
    /// vGrid's configurations.
    fn read(path: &Path) -> io::Result<Option<Self>> {
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
            path: path.to_owned(),
            id: rest.split_whitespace().next().and_then(|id| id.parse().ok()),
        }))
    }

    /// Returns the name of its machine, running or stopped.
    pub(super) fn machine(&self) -> Option<MachineName> {
        let name = self.path.file_name()?.to_str()?;
        let aside = || name.strip_prefix('.')?.strip_suffix(".cfg.stopped");
        aside().or_else(|| name.strip_suffix(".cfg"))?.parse().ok()
    }

    /// Returns whether its machine has this name.
    pub(super) fn names(&self, machine: &str) -> bool {
        let installed = PathBuf::from(format!("{machine}.cfg"));
        let aside = parked(&installed);
        [installed.as_os_str(), aside.as_os_str()].into_iter().any(|name| self.path.file_name() == Some(name))
    }

    /// Returns whether a domain is its machine, by name or by UUID.
    pub(super) fn is_of(&self, domain: &Listed) -> bool {
        let same = |id: VmId| domain.uuid.is_some_and(|uuid| uuid.hyphenated().to_string() == id.to_string());
        self.names(&domain.name) || self.id.is_some_and(same)
    }
}

/// Returns the first line of a machine's configuration.
pub(super) fn header(id: VmId) -> String {
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
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    files::read_text(file, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::size::Amount;

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

    fn listed(name: &str, id: u32) -> Listed {
        let (memory, state) = (Amount::from_mib(96), "-b----".to_owned());
        Listed { name: name.to_owned(), id, memory, state, used: 1, uuid: None }
    }

    #[test]
    fn machines_are_recognized_by_their_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let id = VmId::generate();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let made = |name: &str| Made::read(&dir.path().join(name)).unwrap();
        put("alice_vm1.cfg", &format!("{HEADER}{id} - made and removed by vGrid\nname = 'x'\n"));
        put(".bob_vm2.cfg.stopped", &format!("{HEADER}changed by hand"));
        put("other.cfg", "name = 'other'\n");
        std::os::unix::fs::symlink(dir.path().join("alice_vm1.cfg"), dir.path().join("link.cfg")).unwrap();
        let alice = made("alice_vm1.cfg").unwrap();
        assert!(alice.names("alice_vm1") && !alice.names("alice_vm11") && !alice.names("bob_vm2"));
        assert!(alice.is_of(&listed("alice_vm1", 3)) && !alice.is_of(&listed("renamed", 3)));
        let uuid = uuid::Uuid::try_parse(&id.to_string()).ok();
        assert!(alice.is_of(&Listed { uuid, ..listed("renamed", 3) }));
        assert!(made(".bob_vm2.cfg.stopped").unwrap().names("bob_vm2"));
        assert!(made("other.cfg").is_none() && made("link.cfg").is_none());
        assert!(made("").is_none(), "a directory is no configuration");
        assert!(made("gone.cfg").is_none());
    }
}
