//! `node.cfg`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use strum::VariantArray;
use thiserror::Error;

use crate::model::names::{ImageTag, PhysicalHost, ThinPool, VolumeGroup};
use crate::model::sign::Key;
use crate::model::size::{Cpus, MiB};

use super::cloud::{CloudInit, DiskFormat};
use super::source::{ConfigError, Source, is_http, missing, read_key};
use super::{CA_FILE, KEY_FILE};

/// `node.cfg`.
#[derive(Debug, Clone)]
pub struct Node {
    /// `[General]`.
    pub general: NodeGeneral,
    files: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
    swaps: BTreeMap<String, MiB>,
    types: BTreeMap<String, VmType>,
    makers: BTreeMap<String, String>,
    /// `[CloudInit]`.
    pub cloud_init: Option<CloudInit>,
    source: PathBuf,
}

/// `[General]` of `node.cfg`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RawGeneral")]
pub struct NodeGeneral {
    /// The host that the portal runs on. Only its requests are accepted.
    pub server_hostname: PhysicalHost,
    /// The URL of the server's `internal` programs; if absent,
    /// `http://SERVERHOSTNAME/cgi-bin/internal`.
    server_url: Option<String>,
    /// The directory of the image files.
    pub image_directory: PathBuf,
    /// The share of that directory's file system that saved images must leave free.
    pub image_directory_reserve: Share,
    /// How saved images are compressed.
    pub saved_images: Compression,
    /// Where the machines' disks are.
    pub storage: StorageSettings,
    /// The directory of what vGrid keeps of each machine in files; root's alone.
    pub machine_directory: PathBuf,
    /// `auto`, `xl`, `xm` or `libvirt`.
    pub toolstack: Toolstack,
    /// The directory from which the toolstack starts machines after a reboot.
    pub xen_auto_directory: PathBuf,
    /// The directory in which xenconsoled logs the consoles (`XENCONSOLED_ARGS="--log=guest"`).
    pub console_log_directory: PathBuf,
    /// Whether machines of type `kvm` get an emulated processor, which is slow.
    pub allow_emulation: bool,
    /// The maximum number of simultaneous deploys; others wait for their turn.
    pub parallel_deploys: u8,
    /// Whether the host prepares its images before somebody deploys them.
    pub prepare_ahead: bool,
    /// The most processors that a machine may have; if absent, no limit is known.
    pub max_cpus: Option<Cpus>,
    /// The time that a machine has to shut down by itself before it is forced, in seconds.
    shutdown_timeout: u16,
    /// Whether the helper may remove domains and volumes that vGrid did not create.
    pub remove_strangers: bool,
    /// The directory of the machines' templates.
    pub template_directory: PathBuf,
    /// The directory of the node's records; belongs to the web server's user.
    pub state_directory: PathBuf,
    /// The file with the key shared by the server and the nodes.
    pub key_file: PathBuf,
    /// The log file, used if there is no syslog.
    pub log_file: PathBuf,
    /// The CA certificates that the server's https certificate is checked against, as PEM.
    pub ca_file: PathBuf,
}

/// `[General]` as written in the file: everything has a default except what differs between hosts.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase", expecting = "struct NodeGeneral")]
struct RawGeneral {
    server_hostname: Option<PhysicalHost>,
    #[serde(rename = "serverURL")]
    server_url: Option<String>,
    image_directory: Option<PathBuf>,
    image_directory_reserve: Share,
    saved_images: Compression,
    storage: StorageKind,
    volume_group_name: Option<VolumeGroup>,
    thin_pool: Option<ThinPool>,
    machine_directory: PathBuf,
    toolstack: Toolstack,
    allow_emulation: bool,
    xen_auto_directory: PathBuf,
    console_log_directory: PathBuf,
    parallel_deploys: u8,
    prepare_ahead: bool,
    #[serde(rename = "maxCPUs")]
    max_cpus: Option<Cpus>,
    shutdown_timeout: u16,
    remove_strangers: bool,
    template_directory: PathBuf,
    state_directory: PathBuf,
    key_file: PathBuf,
    log_file: PathBuf,
    ca_file: PathBuf,
}

impl Default for RawGeneral {
    fn default() -> Self {
        Self {
            server_hostname: None,
            server_url: None,
            image_directory: None,
            image_directory_reserve: Share(10),
            saved_images: Compression::Gzip,
            storage: StorageKind::Lvm,
            volume_group_name: None,
            thin_pool: None,
            machine_directory: "/var/lib/vgrid-machines".into(),
            toolstack: Toolstack::Auto,
            allow_emulation: false,
            xen_auto_directory: "/etc/xen/auto".into(),
            console_log_directory: "/var/log/xen/console".into(),
            parallel_deploys: 3,
            prepare_ahead: true,
            max_cpus: None,
            shutdown_timeout: 60,
            remove_strangers: false,
            template_directory: "/etc/vgrid/vmtmpl".into(),
            state_directory: "/var/lib/vgrid/node".into(),
            key_file: KEY_FILE.into(),
            log_file: "/var/lib/vgrid/node.log".into(),
            ca_file: CA_FILE.into(),
        }
    }
}

impl TryFrom<RawGeneral> for NodeGeneral {
    type Error = String;

    fn try_from(raw: RawGeneral) -> Result<Self, String> {
        Ok(Self {
            server_hostname: raw.server_hostname.ok_or_else(|| missing("serverHostname"))?,
            server_url: raw.server_url,
            image_directory: raw.image_directory.ok_or_else(|| missing("imageDirectory"))?,
            image_directory_reserve: raw.image_directory_reserve,
            saved_images: raw.saved_images,
            storage: raw.storage.settings(raw.volume_group_name, raw.thin_pool)?,
            machine_directory: raw.machine_directory,
            toolstack: raw.toolstack,
            allow_emulation: raw.allow_emulation,
            xen_auto_directory: raw.xen_auto_directory,
            console_log_directory: raw.console_log_directory,
            parallel_deploys: raw.parallel_deploys,
            prepare_ahead: raw.prepare_ahead,
            max_cpus: raw.max_cpus,
            shutdown_timeout: raw.shutdown_timeout,
            remove_strangers: raw.remove_strangers,
            template_directory: raw.template_directory,
            state_directory: raw.state_directory,
            key_file: raw.key_file,
            log_file: raw.log_file,
            ca_file: raw.ca_file,
        })
    }
}

/// Where the machines' disks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageSettings {
    /// Volumes of this LVM volume group.
    Lvm(VolumeGroup),
    /// Volumes of this thin pool in this LVM volume group.
    Thin(VolumeGroup, ThinPool),
    /// Files in [`NodeGeneral::machine_directory`].
    Files,
}

/// The value of `storage`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StorageKind {
    Lvm,
    Thin,
    Files,
}

impl StorageKind {
    fn settings(self, group: Option<VolumeGroup>, pool: Option<ThinPool>) -> Result<StorageSettings, String> {
        let group = group.ok_or_else(|| missing("volumeGroupName"));
        Ok(match self {
            Self::Lvm => StorageSettings::Lvm(group?),
            Self::Thin => StorageSettings::Thin(group?, pool.ok_or_else(|| missing("thinPool"))?),
            Self::Files => StorageSettings::Files,
        })
    }
}

/// The program that controls machines of type `xen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Toolstack {
    /// `xl` if installed, otherwise `xm`.
    Auto,
    /// `xl`, Xen 4.1 and later.
    Xl,
    /// `xm`, before Xen 4.5.
    Xm,
    /// libvirt's Xen driver, `xen:///system`.
    Libvirt,
}

/// The machine types allowed in `[VMTypes]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, VariantArray)]
#[serde(rename_all = "lowercase")]
pub enum VmType {
    /// A Xen domain.
    Xen,
    /// A domain of libvirt's QEMU driver.
    Kvm,
}

impl VmType {
    /// All types.
    pub const ALL: &[Self] = Self::VARIANTS;
}

/// How saved images are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, VariantArray)]
pub enum Compression {
    /// `.tar.gz`, which everything can read.
    #[default]
    #[serde(rename = "gz")]
    Gzip,
    /// `.tar.zst`: smaller, and made in a fraction of the time.
    #[serde(rename = "zst")]
    Zstd,
}

impl Compression {
    /// All compression formats.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns the file name extension.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Gzip => ".tar.gz",
            Self::Zstd => ".tar.zst",
        }
    }
}

/// A percentage of a whole, written as `"10%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Share(u8);

impl Share {
    /// The largest share, in percent; a larger one would leave nothing usable.
    const MOST: u8 = 95;

    /// Returns this share of `whole`, rounded down.
    pub fn of(self, whole: u64) -> u64 {
        // Divides before multiplying, so that it can't overflow.
        whole / 100 * u64::from(self.0) + whole % 100 * u64::from(self.0) / 100
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok()).filter(|number| *number <= Self::MOST);
        number.map(Self).ok_or_else(|| format!("{text:?} is not a share from \"0%\" to \"{}%\"", Self::MOST))
    }
}

/// The section of `node.cfg` that names the images' files.
const FILES: &str = "VMImageFiles";

/// A node's settings for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSettings {
    /// The image file, as an absolute path.
    pub file: PathBuf,
    /// The template of its machines' configuration, as an absolute path.
    pub template: PathBuf,
    /// The size of its machines' swap volumes.
    pub swap: MiB,
    /// The type of its machines.
    pub vm_type: VmType,
    /// The format of the file, if the image is a whole disk and not the tree of a file system.
    pub disk: Option<DiskFormat>,
    /// The program that creates the file system, with its arguments; the device is appended. Empty
    /// for a whole disk, which has its own.
    pub make_filesystem: Vec<String>,
}

/// An image can't be used on a node, because a setting is missing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("node.cfg has no [{section}] for {tag} and no default")]
pub struct NoSetting {
    /// The section that lacks the setting.
    pub section: &'static str,
    /// The image.
    pub tag: ImageTag,
}

impl NoSetting {
    /// Returns whether the image is not on this node at all.
    pub fn is_elsewhere(&self) -> bool {
        self.section == FILES
    }
}

impl Node {
    /// The upper limit of simultaneous deploys.
    const MOST_DEPLOYS: u8 = 64;

    /// The upper limit of the shutdown timeout, in seconds.
    pub const LONGEST_SHUTDOWN: u16 = 600;

    /// Reads `node.cfg` from a directory.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            #[serde(rename = "General")]
            general: NodeGeneral,
            #[serde(rename = "VMImageFiles", default)]
            files: BTreeMap<String, String>,
            #[serde(rename = "VMConfigTemplates", default)]
            templates: BTreeMap<String, String>,
            #[serde(rename = "VMSwapSize", default)]
            swaps: BTreeMap<String, MiB>,
            #[serde(rename = "VMTypes", default)]
            types: BTreeMap<String, VmType>,
            #[serde(rename = "XenDeployerFSCreateCmd", default)]
            makers: BTreeMap<String, String>,
            #[serde(rename = "CloudInit")]
            cloud_init: Option<CloudInit>,
        }
        let source = Source::read(dir, "node.cfg")?;
        let raw: Raw = source.parse()?;
        let sections: [(&'static str, Vec<&String>); 5] = [
            (FILES, raw.files.keys().collect()),
            ("VMConfigTemplates", raw.templates.keys().collect()),
            ("VMSwapSize", raw.swaps.keys().collect()),
            ("VMTypes", raw.types.keys().collect()),
            ("XenDeployerFSCreateCmd", raw.makers.keys().collect()),
        ];
        for (section, keys) in sections {
            for key in keys {
                key.parse::<ImageTag>().map_err(|fault| source.value(section, key, fault))?;
            }
        }
        if let Some(url) = raw.general.server_url.as_deref().filter(|url| !is_http(url)) {
            return Err(source.value("General", "serverURL", format!("{url:?} is not a URL")));
        }
        if raw.general.parallel_deploys == 0 || raw.general.parallel_deploys > Self::MOST_DEPLOYS {
            let message = format!("must be from 1 to {}", Self::MOST_DEPLOYS);
            return Err(source.value("General", "parallelDeploys", message));
        }
        if raw.general.shutdown_timeout == 0 || raw.general.shutdown_timeout > Self::LONGEST_SHUTDOWN {
            let message = format!("must be from 1 to {} seconds", Self::LONGEST_SHUTDOWN);
            return Err(source.value("General", "shutdownTimeout", message));
        }
        for (key, command) in &raw.makers {
            if !command.starts_with('/') {
                return Err(source.value("XenDeployerFSCreateCmd", key, "must begin with an absolute path"));
            }
        }
        for (section, table) in [(FILES, &raw.files), ("VMConfigTemplates", &raw.templates)] {
            for (key, name) in table {
                if name.split('/').any(|part| part == ".." || part.is_empty()) && !name.starts_with('/') {
                    return Err(source.value(section, key, "must be a file's name, without .."));
                }
            }
        }
        let type_of = |key: &str| raw.types.get(key).or_else(|| raw.types.get("default"));
        for (key, _) in raw.files.iter().filter(|(_, file)| DiskFormat::of(file).is_some()) {
            if type_of(key).is_some_and(|vm_type| *vm_type != VmType::Kvm) {
                let message = format!("a whole disk, so [VMTypes] must say {key} = \"kvm\"");
                return Err(source.value("VMImageFiles", key, message));
            }
            if raw.cloud_init.is_none() {
                let message = "a whole disk, so there must be a section [CloudInit]";
                return Err(source.value("VMImageFiles", key, message));
            }
        }
        Ok(Self {
            general: raw.general,
            files: raw.files,
            templates: raw.templates,
            swaps: raw.swaps,
            types: raw.types,
            makers: raw.makers,
            cloud_init: raw.cloud_init,
            source: source.file,
        })
    }

    /// Returns the time that a machine has to shut down by itself before it is forced.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.general.shutdown_timeout.into())
    }

    /// Returns the URL of one of the server's `internal` programs.
    pub fn server_url(&self, program: &str) -> String {
        let base = self
            .general
            .server_url
            .clone()
            .unwrap_or_else(|| format!("http://{}/cgi-bin/internal", self.general.server_hostname));
        format!("{}/{program}", base.trim_end_matches('/'))
    }

    /// Reads the key shared by the server and the nodes.
    pub fn key(&self) -> Result<Key, ConfigError> {
        read_key(&self.general.key_file, &self.source)
    }

    /// Lists the images that this node has a file for.
    pub fn images(&self) -> impl Iterator<Item = ImageTag> {
        self.files.keys().filter(|key| *key != "default").filter_map(|key| key.parse().ok())
    }

    /// Lists the absolute paths of all files named in `[VMImageFiles]`.
    pub fn image_files(&self) -> impl Iterator<Item = PathBuf> {
        self.files.values().map(|name| self.general.image_directory.join(name))
    }

    /// Returns the name of the volume group; `None` if the machines' disks are elsewhere.
    pub fn volume_group(&self) -> Option<&VolumeGroup> {
        match &self.general.storage {
            StorageSettings::Lvm(group) | StorageSettings::Thin(group, _) => Some(group),
            StorageSettings::Files => None,
        }
    }

    /// Returns the types of the machines that this host runs, which are those in `[VMTypes]`.
    pub fn vm_types(&self) -> Vec<VmType> {
        let is_used = |vm_type: &VmType| self.types.values().any(|used| used == vm_type);
        let types: Vec<_> = VmType::ALL.iter().copied().filter(is_used).collect();
        // Without the section nothing can be deployed, but there may be machines from before.
        if types.is_empty() { vec![VmType::Xen] } else { types }
    }

    /// Returns the settings of an image; each falls back to its section's `default`.
    pub fn image(&self, tag: &ImageTag) -> Result<ImageSettings, NoSetting> {
        fn get<'a, T>(
            table: &'a BTreeMap<String, T>,
            section: &'static str,
            tag: &ImageTag,
        ) -> Result<&'a T, NoSetting> {
            table
                .get(tag.as_str())
                .or_else(|| table.get("default"))
                .ok_or_else(|| NoSetting { section, tag: tag.clone() })
        }
        let file = get(&self.files, FILES, tag)?;
        let disk = DiskFormat::of(file);
        let make_filesystem = if disk.is_some() {
            Vec::new()
        } else {
            let maker = get(&self.makers, "XenDeployerFSCreateCmd", tag)?;
            maker.split_whitespace().map(str::to_owned).collect()
        };
        Ok(ImageSettings {
            file: self.general.image_directory.join(file),
            template: self.general.template_directory.join(get(&self.templates, "VMConfigTemplates", tag)?),
            swap: *get(&self.swaps, "VMSwapSize", tag)?,
            vm_type: *get(&self.types, "VMTypes", tag)?,
            disk,
            make_filesystem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        let share = |text: &str| Share::try_from(text.to_owned());
        assert_eq!(share("0%").unwrap().of(u64::MAX), 0);
        assert_eq!(share("95%").unwrap().of(199), 189);
        for text in ["", "%", "10", "96%", "+5%", "-1%", "10 %", "1e1%", "256%", "10%%"] {
            assert!(share(text).unwrap_err().contains("is not a share"), "{text}");
        }
    }

    #[test]
    fn host_specific_settings_have_no_default() {
        let dir = tempfile::tempdir().unwrap();
        let mut text = "[General]\n".to_owned();
        for (key, value) in [("serverHostname", "s"), ("imageDirectory", "/i"), ("volumeGroupName", "vg1")] {
            std::fs::write(dir.path().join("node.cfg"), &text).unwrap();
            let message = Node::load(dir.path()).unwrap_err().to_string();
            assert!(message.ends_with(&format!("node.cfg, line 1: missing field `{key}`")), "{message}");
            text.push_str(&format!("{key} = \"{value}\"\n"));
        }
        std::fs::write(dir.path().join("node.cfg"), &text).unwrap();
        let node = Node::load(dir.path()).unwrap();
        assert_eq!(node.general.max_cpus, None, "no limit is known");
        for (value, most) in [("4", Some(4)), ("0", None), ("65", None), ("\"4\"", None)] {
            std::fs::write(dir.path().join("node.cfg"), format!("{text}maxCPUs = {value}\n")).unwrap();
            match (Node::load(dir.path()), most) {
                (Ok(node), Some(_)) => assert_eq!(node.general.max_cpus.map(Cpus::get), most),
                (Err(error), None) => assert!(error.to_string().contains("node.cfg, line 5"), "{error}"),
                (other, _) => panic!("maxCPUs = {value}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_whole_disk_needs_kvm_and_cloud_init() {
        const CLOUD: &str = "[CloudInit]\nkeyRepository = \"https://k/\"\n";
        let dir = tempfile::tempdir().unwrap();
        let load = |types: &str, cloud: &str| {
            let text = format!(
                "[General]\nserverHostname = \"s\"\nimageDirectory = \"/img\"\nvolumeGroupName = \"vg1\"\n\
                 [VMImageFiles]\ntiny = \"tiny.tar\"\ndebian = \"debian.qcow2\"\n[VMSwapSize]\ndefault = 64\n\
                 [VMConfigTemplates]\ndefault = \"x\"\n[VMTypes]\n{types}\n{cloud}"
            );
            std::fs::write(dir.path().join("node.cfg"), text).unwrap();
            Node::load(dir.path()).map_err(|error| error.to_string())
        };
        let (debian, tiny) = ("debian".parse().unwrap(), "tiny".parse().unwrap());
        let node = load("default = \"xen\"\ndebian = \"kvm\"", CLOUD).unwrap();
        let settings = node.image(&debian).unwrap();
        assert_eq!((settings.disk, settings.vm_type), (Some(DiskFormat::Qcow2), VmType::Kvm));
        assert_eq!(settings.make_filesystem, [""; 0]);
        // Others still need the command.
        assert_eq!(node.image(&tiny).unwrap_err().section, "XenDeployerFSCreateCmd");
        let error = load("default = \"xen\"", CLOUD).unwrap_err();
        let words = "[VMImageFiles] debian: a whole disk, so [VMTypes] must say debian = \"kvm\"";
        assert!(error.contains(words), "{error}");
        let error = load("default = \"kvm\"", "").unwrap_err();
        assert!(error.contains("there must be a section [CloudInit]"), "{error}");
    }

    #[test]
    fn each_setting_of_an_image_falls_back_to_the_default() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("node.cfg"),
            "[General]\nserverHostname = \"s\"\nimageDirectory = \"/img\"\nvolumeGroupName = \"vg1\"\n\
             [VMImageFiles]\ntiny = \"tiny.tar.gz\"\n[VMConfigTemplates]\ndefault = \"xen-xvda\"\ntiny = \"xen-sda\"\n\
             [VMSwapSize]\ndefault = 64\n[VMTypes]\ndefault = \"xen\"\n\
             [XenDeployerFSCreateCmd]\ndefault = \"/sbin/mkfs.ext4 -q -F\"\n",
        )
        .unwrap();
        let node = Node::load(dir.path()).unwrap();
        let tiny = node.image(&"tiny".parse().unwrap()).unwrap();
        assert_eq!(tiny.file, Path::new("/img/tiny.tar.gz"));
        assert_eq!(tiny.template, Path::new("/etc/vgrid/vmtmpl/xen-sda"));
        assert_eq!((tiny.swap.get(), tiny.make_filesystem.len()), (64, 3));
        assert_eq!(node.image_files().collect::<Vec<_>>(), [Path::new("/img/tiny.tar.gz")]);
        assert_eq!(node.general.saved_images, Compression::Gzip);
        assert_eq!(node.general.image_directory_reserve.of(2_000), 200);
        assert!(!node.general.remove_strangers, "not allowed by default");
        assert!(node.general.prepare_ahead, "done by default");
        assert_eq!(node.image(&"other".parse().unwrap()).unwrap_err().section, "VMImageFiles");
        assert_eq!(node.server_url("status"), "http://s/cgi-bin/internal/status");
    }
}
