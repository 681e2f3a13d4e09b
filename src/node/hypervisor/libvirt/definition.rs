//! Definitions of machines in libvirt's XML: whether one may be used, and what it says.
//!
//! Root's libvirtd opens every file and starts every program that a definition names. So a
//! definition is used only if all that it names is the machine's own, and if every element and
//! attribute in it is known to name nothing else (`places.rs`).

use std::path::{Path, PathBuf};

use roxmltree::{Attribute, Document, Node, NodeType, ParsingOptions};
use strum::IntoStaticStr;
use thiserror::Error;
use uuid::Uuid;

use super::places::{self, Text};
use crate::model::names::{MachineName, VmId};
use crate::node::hypervisor::HypervisorError;

/// The length of the longest definition that is read, in bytes.
pub const LONGEST: usize = 64 << 10;

/// What a disk is on the host. As text, the `type` of a `<disk>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum DiskKind {
    /// A file.
    File,
    /// A block device.
    Block,
}

impl DiskKind {
    /// Returns the attribute of `<source>` that names the disk.
    pub fn attribute(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Block => "dev",
        }
    }
}

/// A disk that a machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its path on the host.
    pub path: PathBuf,
    /// What it is there.
    pub kind: DiskKind,
}

/// What a definition may name, and what it must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The machine's name, which is the domain's.
    pub name: MachineName,
    /// The machine's id, which is the domain's UUID.
    pub id: VmId,
    /// The disk with the root file system, which the definition must have.
    pub root: Disk,
    /// The disk for swap.
    pub swap: Disk,
    /// A disk with data for the guest's first boot.
    pub seed: Option<Disk>,
    /// Where the console is logged.
    pub console_log: PathBuf,
    /// What the machine boots by, if not by itself.
    pub boot_loader: PathBuf,
    /// Whether QEMU may emulate the processor (`<domain type='qemu'>`).
    pub allow_emulation: bool,
    /// Whether it is a machine of Xen's, which is paravirtualized and boots by its boot loader.
    pub is_xen: bool,
}

impl Own {
    /// Returns what serves the disks to the machine: the host's kernel, if they are a Xen machine's
    /// volumes, or else QEMU.
    pub fn disk_driver(&self) -> &'static str {
        if self.is_xen && self.root.kind == DiskKind::Block { "phy" } else { "qemu" }
    }

    /// Returns the type of domain that is made.
    pub fn domain_type(&self) -> &'static str {
        match self {
            Self { is_xen: true, .. } => "xen",
            Self { allow_emulation: true, .. } => "qemu",
            _ => "kvm",
        }
    }
}

/// Why a definition is not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}{flaw}", line.map_or(String::new(), |line| format!("line {line}: ")))]
pub struct Refusal {
    /// The line in the text.
    pub line: Option<u32>,
    /// What is wrong there.
    pub flaw: Flaw,
}

/// What is wrong with a definition. A place is given by its path below `domain`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Flaw {
    /// It can't be parsed.
    #[error("this is no XML: {0}")]
    NotXml(String),
    /// It is too long.
    #[error("a definition may have {LONGEST} bytes, and this one has {0}")]
    TooLong(usize),
    /// It is declared to be in another encoding, in which libvirt would read something else.
    #[error("a definition is in UTF-8, and this one says {0}")]
    Encoding(String),
    /// It has a processing instruction.
    #[error("a definition has no processing instructions, and this one has <?{0}?>")]
    Instruction(String),
    /// The outermost element is something else.
    #[error("a definition is a <domain>, and this is a <{0}>")]
    NotADomain(String),
    /// An element that vGrid does not know.
    #[error("vGrid does not allow <{0}>, because it does not know that this names nothing of the host")]
    Element(String),
    /// An attribute that vGrid does not know.
    #[error(
        "vGrid does not allow the attribute {name} of <{path}>, because it does not know that this names nothing of the host"
    )]
    Attribute {
        /// The element.
        path: String,
        /// The attribute.
        name: String,
    },
    /// Text where none belongs.
    #[error("<{0}> contains text")]
    Text(String),
    /// A value that looks like a path.
    #[error("{place} is {found:?}, which might name a file of the host")]
    Path {
        /// The place.
        place: String,
        /// What it says.
        found: String,
    },
    /// A value that vGrid does not allow there.
    #[error("{place} is {found:?}, and vGrid allows only {allowed}")]
    Value {
        /// The place.
        place: String,
        /// What it says.
        found: String,
        /// What it may say.
        allowed: String,
    },
    /// A disk that is not the machine's.
    #[error("{found:?} is no disk of this machine; its disks are {disks}")]
    Disk {
        /// What it says.
        found: String,
        /// What it may say.
        disks: String,
    },
    /// Emulation, which this host does not permit.
    #[error("the domain's type is qemu, and node.cfg does not say allowEmulation = true")]
    Emulation,
    /// An element or attribute is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// Something is there twice, and libvirt would use one of them.
    #[error("{0} is there twice")]
    Twice(String),
}

impl From<Refusal> for HypervisorError {
    fn from(refusal: Refusal) -> Self {
        Self::Definition { line: refusal.line, detail: refusal.flaw.to_string() }
    }
}

/// Checks a rendered template. Returns it complete, with the machine's UUID, on the same lines.
pub fn complete(text: &str, own: &Own) -> Result<String, Refusal> {
    let document = parse(text)?;
    let domain = document.root_element();
    let mut reader = Reader { own, document: &document, disks: Vec::new() };
    if domain.tag_name().namespace().is_some() || domain.tag_name().name() != "domain" {
        return Err(reader.at(&domain, Flaw::NotADomain(domain.tag_name().name().to_owned())));
    }
    if let Some(instruction) = document.root().children().find(Node::is_pi) {
        return Err(reader.instruction(&instruction));
    }
    reader.element(&domain, "")?;
    if !reader.disks.contains(&own.root.path.as_path()) {
        let disk = format!("the disk {}", own.root.path.display());
        return Err(reader.at(&domain, Flaw::Missing(disk)));
    }
    // Without a kernel, libvirt has root read the guest's disk for one (pygrub).
    if own.is_xen && command(&domain, "kernel").is_none() {
        return Err(reader.at(&domain, Flaw::Missing(shown("os/kernel", ""))));
    }
    if child(&domain, "uuid").is_some() {
        return Ok(text.to_owned());
    }
    let name = child(&domain, "name").map_or(0, |name| name.range().end);
    let (before, after) = text.split_at(name);
    Ok(format!("{before}<uuid>{}</uuid>{after}", own.id))
}

/// Returns the name and the UUID in a definition.
pub fn identity(text: &str) -> Result<(String, Option<Uuid>), Refusal> {
    let document = parse(text)?;
    let value = |name: &str| child(&document.root_element(), name).map(|node| content(&node));
    let name = value("name").ok_or(Refusal { line: None, flaw: Flaw::Missing("<name>".to_owned()) })?;
    Ok((name, value("uuid").and_then(|uuid| Uuid::try_parse(&uuid).ok())))
}

/// Returns the kernel's command line in a definition.
pub fn command_line(text: &str) -> Result<String, Refusal> {
    let document = parse(text)?;
    Ok(command(&document.root_element(), "cmdline").unwrap_or_default())
}

/// Returns whether libvirt restarts a machine with this definition after it has shut down.
pub fn restarts_after_poweroff(text: &str) -> Result<bool, Refusal> {
    let document = parse(text)?;
    let value = child(&document.root_element(), "on_poweroff").map(|node| content(&node));
    Ok(value.is_some_and(|value| value.contains("restart")))
}

/// Returns the bridges of the host that a definition names.
pub fn bridges(text: &str) -> Result<Vec<String>, Refusal> {
    let document = parse(text)?;
    let sources = document.descendants().filter(|node| node.has_tag_name("source"));
    Ok(sources.filter_map(|source| source.attribute("bridge")).map(str::to_owned).collect())
}

/// Parses a definition. DTDs are refused, so there are no entities but those of XML itself.
fn parse(text: &str) -> Result<Document<'_>, Refusal> {
    let refusal = |line, flaw| Refusal { line, flaw };
    if text.len() > LONGEST {
        return Err(refusal(None, Flaw::TooLong(text.len())));
    }
    // The parser reads UTF-8 whatever is declared; libvirt's does not.
    let declaration = text.trim_start_matches('\u{feff}').strip_prefix("<?xml").unwrap_or_default();
    let declaration = declaration.split("?>").next().unwrap_or_default();
    if let Some((_, rest)) = declaration.split_once("encoding") {
        let encoding = rest.split(['"', '\'']).nth(1).unwrap_or_default();
        if !encoding.eq_ignore_ascii_case("utf-8") {
            return Err(refusal(Some(1), Flaw::Encoding(encoding.to_owned())));
        }
    }
    let options = ParsingOptions { allow_dtd: false, ..ParsingOptions::default() };
    Document::parse_with_options(text, options)
        .map_err(|error| refusal(Some(error.pos().row), Flaw::NotXml(error.to_string())))
}

/// Returns the first child element of that name.
fn child<'a, 'input>(node: &Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// Returns what `<os>` says of that name.
fn command(domain: &Node, name: &str) -> Option<String> {
    child(domain, "os").and_then(|os| child(&os, name)).map(|node| content(&node))
}

/// Returns the text in an element. A comment may split it.
fn content(node: &Node) -> String {
    node.children().filter(Node::is_text).filter_map(|text| text.text()).collect()
}

/// Names an element in an error.
fn named(path: &str) -> &str {
    if path.is_empty() { "domain" } else { path }
}

/// Names a place in an error: an element, or its attribute.
fn shown(path: &str, attribute: &str) -> String {
    let path = named(path);
    if attribute.is_empty() { format!("<{path}>") } else { format!("the attribute {attribute} of <{path}>") }
}

/// Checks a definition, element by element.
struct Reader<'a, 'input> {
    own: &'a Own,
    document: &'a Document<'input>,
    /// The disks that it has so far.
    disks: Vec<&'a Path>,
}

impl Reader<'_, '_> {
    fn at(&self, node: &Node, flaw: Flaw) -> Refusal {
        Refusal { line: Some(self.document.text_pos_at(node.range().start).row), flaw }
    }

    fn instruction(&self, node: &Node) -> Refusal {
        self.at(node, Flaw::Instruction(node.pi().map_or("", |pi| pi.target).to_owned()))
    }

    /// Checks an element and all in it. `path` is its place.
    fn element(&mut self, node: &Node, path: &str) -> Result<(), Refusal> {
        let place = places::find(path).filter(|_| node.tag_name().namespace().is_none());
        let place = place.ok_or_else(|| self.at(node, Flaw::Element(path.to_owned())))?;
        for attribute in node.attributes() {
            let is_known = place.attributes.split(' ').any(|known| known == attribute.name());
            if !is_known || attribute.namespace().is_some() {
                let name = attribute.name().to_owned();
                let flaw = Flaw::Attribute { path: named(path).to_owned(), name };
                return Err(self.at_attribute(&attribute, flaw));
            }
            self.value(node, path, attribute.name(), attribute.value())
                .map_err(|flaw| self.at_attribute(&attribute, flaw))?;
        }
        for (_, name) in places::REQUIRED_ATTRIBUTES.iter().filter(|(required, _)| *required == path) {
            if node.attribute(*name).is_none() {
                return Err(self.at(node, Flaw::Missing(shown(path, name))));
            }
        }
        match place.text {
            Text::Foreign => return Ok(()),
            Text::Free => {}
            Text::Word => {
                self.value(node, path, "", &content(node)).map_err(|flaw| self.at(node, flaw))?;
            }
            Text::Nothing if content(node).trim().is_empty() => {}
            Text::Nothing => {
                return Err(self.at(node, Flaw::Text(named(path).to_owned())));
            }
        }
        self.children(node, path)
    }

    fn children(&mut self, node: &Node, path: &str) -> Result<(), Refusal> {
        let mut seen: Vec<&str> = Vec::new();
        for child in node.children() {
            match child.node_type() {
                NodeType::Element => {}
                NodeType::PI => return Err(self.instruction(&child)),
                NodeType::Text | NodeType::Comment | NodeType::Root => continue,
            }
            let name = child.tag_name().name();
            let below = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            if seen.contains(&name) && places::find(&below).is_some_and(|place| !place.repeats) {
                return Err(self.at(&child, Flaw::Twice(shown(&below, ""))));
            }
            seen.push(name);
            self.element(&child, &below)?;
        }
        for (_, name) in places::REQUIRED_ELEMENTS.iter().filter(|(required, _)| *required == path) {
            if !seen.contains(name) {
                let below = if path.is_empty() { (*name).to_owned() } else { format!("{path}/{name}") };
                return Err(self.at(node, Flaw::Missing(shown(&below, ""))));
            }
        }
        Ok(())
    }

    fn at_attribute(&self, attribute: &Attribute, flaw: Flaw) -> Refusal {
        Refusal { line: Some(self.document.text_pos_at(attribute.range().start).row), flaw }
    }

    /// Checks the value of an attribute or, with an empty name, the text of an element.
    fn value(&mut self, node: &Node, path: &str, attribute: &str, found: &str) -> Result<(), Flaw> {
        let own = self.own;
        let only = |allowed: &str| {
            if found == allowed {
                return Ok(());
            }
            let (place, found) = (shown(path, attribute), found.to_owned());
            Err(Flaw::Value { place, found, allowed: allowed.to_owned() })
        };
        match (path, attribute) {
            ("", "type") if own.is_xen => only(own.domain_type()),
            ("os/type", "") if own.is_xen => only("linux"),
            ("devices/disk/driver", "name") if own.is_xen && found == "phy" => Ok(()),
            ("", "type") if found == "qemu" && own.allow_emulation => Ok(()),
            ("", "type") if found == "qemu" => Err(Flaw::Emulation),
            ("", "type") => only("kvm"),
            ("name", _) => only(own.name.as_str()),
            ("uuid", _) => only(&own.id.to_string()),
            ("os/kernel", _) => only(&own.boot_loader.to_string_lossy()),
            ("devices/serial/log" | "devices/console/log", "file") => {
                only(&own.console_log.to_string_lossy())
            }
            ("devices/disk/source", _) => {
                let kind = node.parent().and_then(|disk| disk.attribute("type")).unwrap_or_default();
                self.disk(kind, attribute, found)
            }
            _ => match places::choices(path, attribute) {
                Some(allowed) if allowed.contains(&found) => Ok(()),
                Some(allowed) => {
                    let (place, found) = (shown(path, attribute), found.to_owned());
                    Err(Flaw::Value { place, found, allowed: allowed.join(", ") })
                }
                None if found.contains('/') => {
                    Err(Flaw::Path { place: shown(path, attribute), found: found.to_owned() })
                }
                None => Ok(()),
            },
        }
    }

    /// Checks the source of a disk of that type.
    fn disk(&mut self, kind: &str, attribute: &str, found: &str) -> Result<(), Flaw> {
        let own = self.own;
        let disks = || [Some(&own.root), Some(&own.swap), own.seed.as_ref()].into_iter().flatten();
        let is_it = |disk: &&Disk| {
            let its: &str = disk.kind.into();
            disk.path.to_str() == Some(found) && its == kind && disk.kind.attribute() == attribute
        };
        let Some(disk) = disks().find(is_it) else {
            let shown = |disk: &Disk| {
                let kind: &str = disk.kind.into();
                format!("{} (type {kind}, by the attribute {})", disk.path.display(), disk.kind.attribute())
            };
            let disks = disks().map(shown).collect::<Vec<_>>().join(", ");
            return Err(Flaw::Disk { found: found.to_owned(), disks });
        };
        if self.disks.contains(&disk.path.as_path()) {
            return Err(Flaw::Twice(format!("the disk {found}")));
        }
        self.disks.push(&disk.path);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::machine::{self, LibvirtValues, Values};

    const TEMPLATE: &str = include_str!("../../../../vmtmpl/kvm.xml");
    const ID: &str = "019abcde-1111-7222-8333-555555555501";

    const ROOT: &str = "<source file='/var/lib/vgrid/machines/1/root.raw'/>";
    const RAW_ROOT: &str = "<driver name='qemu' type='raw' cache='none' discard='unmap'/>\n      <source file='/var/lib/vgrid/machines/1/root.raw'/>";
    const UNKNOWN: &str = "vGrid does not allow";
    const OTHER: &str = "vGrid allows only";

    /// What is replaced in the rendered template, by what, and what the refusal says.
    const HOSTILE: &[(&str, &str, &str)] = &[
        // Who it is.
        ("<name>alice_vm1</name>", "<name>bob_vm1</name>", "<name> is \"bob_vm1\""),
        ("<name>alice_vm1</name>", "<name> alice_vm1</name>", OTHER),
        ("<name>alice_vm1</name>", "", "<name> is missing"),
        ("<name>alice_vm1</name>", "<name>alice_vm1</name><name>alice_vm1</name>", "<name> is there twice"),
        ("<name>alice_vm1</name>", "<name>alice_vm1<x/></name>", "<name/x>"),
        ("</uuid>", "</uuid><uuid>019abcde-1111-7222-8333-555555555502</uuid>", "<uuid> is there twice"),
        (" type='kvm'", "", "the attribute type of <domain> is missing"),
        (" type='kvm'", " type='xen'", "the attribute type of <domain> is \"xen\""),
        (" type='kvm'", " type='kvm' id='7'", "the attribute id of <domain>"),
        // Disks.
        (ROOT, "<source file='/etc/shadow'/>", "\"/etc/shadow\" is no disk of this machine"),
        (ROOT, "<source file='/var/lib/vgrid/machines/1/../2/root.raw'/>", "is no disk"),
        (ROOT, "<source file='/var/lib/vgrid/machines/1/swap.raw'/>", "is there twice"),
        (ROOT, "<source file='root.raw'/>", "is no disk"),
        (ROOT, "<source dev='/var/lib/vgrid/machines/1/root.raw'/>", "is no disk"),
        (ROOT, "<source dev='/dev/sda'/>", "is no disk"),
        (ROOT, "<source dir='/etc'/>", "the attribute dir of <devices/disk/source>"),
        (ROOT, "<source pool='default' volume='x'/>", UNKNOWN),
        (ROOT, "<source protocol='nbd' name='x'/>", UNKNOWN),
        (ROOT, "<source/>", "the disk /var/lib/vgrid/machines/1/root.raw is missing"),
        (ROOT, "", "<devices/disk/source> is missing"),
        (
            ROOT,
            "<source file='/var/lib/vgrid/machines/1/root.raw' startupPolicy='optional'/>",
            "startupPolicy",
        ),
        (
            ROOT,
            "<source file='/var/lib/vgrid/machines/1/root.raw'><seclabel relabel='no'/></source>",
            UNKNOWN,
        ),
        (
            ROOT,
            "<source file='/var/lib/vgrid/machines/1/root.raw'/><backingStore type='file'><source file='/etc/shadow'/></backingStore>",
            "<devices/disk/backingStore>",
        ),
        (
            ROOT,
            "<source file='/var/lib/vgrid/machines/1/root.raw'/><mirror file='/etc/cron.d/x'/>",
            "<devices/disk/mirror>",
        ),
        (ROOT, "<source file='/var/lib/vgrid/machines/1/root.raw'/><shareable/>", "<devices/disk/shareable>"),
        (ROOT, "<source file='/var/lib/vgrid/machines/1/root.raw'/><transient/>", "<devices/disk/transient>"),
        (RAW_ROOT, ROOT, "<devices/disk/driver> is missing"),
        (
            RAW_ROOT,
            "<driver name='qemu' type='qcow2' cache='none' discard='unmap'/>\n      <source file='/var/lib/vgrid/machines/1/root.raw'/>",
            "is \"qcow2\", and vGrid allows only raw",
        ),
        (
            RAW_ROOT,
            "<driver name='qemu' cache='none' discard='unmap'/>\n      <source file='/var/lib/vgrid/machines/1/root.raw'/>",
            "the attribute type of <devices/disk/driver> is missing",
        ),
        (
            RAW_ROOT,
            "<driver name='tap' type='raw' cache='none' discard='unmap'/>\n      <source file='/var/lib/vgrid/machines/1/root.raw'/>",
            OTHER,
        ),
        (
            "</devices>",
            "<disk type='file'><driver type='raw'/><source file='/etc/shadow'/></disk></devices>",
            "is no disk",
        ),
        (
            "</devices>",
            "<disk type='dir'><driver type='raw'/><source dir='/etc'/></disk></devices>",
            "is \"dir\"",
        ),
        (
            "</devices>",
            "<disk type='vhostuser'><driver type='raw'/><source type='unix' path='/x'/></disk></devices>",
            OTHER,
        ),
        (
            "</devices>",
            "<disk type='block' device='lun'><driver type='raw'/><source dev='/dev/sda'/></disk></devices>",
            "is \"lun\"",
        ),
        // Programs and files of the boot.
        ("<devices>", "<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>", "<devices/emulator>"),
        (
            "<kernel>/var/lib/vgrid-machines/pcgrub.img</kernel>",
            "<kernel>/boot/vmlinuz</kernel>",
            "<os/kernel> is \"/boot/vmlinuz\"",
        ),
        ("</kernel>", "</kernel><initrd>/etc/shadow</initrd>", "<os/initrd>"),
        ("</kernel>", "</kernel><dtb>/etc/shadow</dtb>", "<os/dtb>"),
        ("</kernel>", "</kernel><shim>/etc/shadow</shim>", "<os/shim>"),
        ("</kernel>", "</kernel><acpi><table type='slic'>/etc/shadow</table></acpi>", "<os/acpi>"),
        ("</kernel>", "</kernel><kernel>/etc/shadow</kernel>", "<os/kernel> is there twice"),
        ("</kernel>", "</kernel><loader readonly='yes' type='pflash'>/x</loader>", "<os/loader>"),
        ("</kernel>", "</kernel><nvram template='/etc/shadow'>/x</nvram>", "<os/nvram>"),
        ("  <os>", "  <os firmware='efi'>", "the attribute firmware of <os>"),
        ("mode='sysinfo'", "mode='host'", "is \"host\""),
        ("<sysinfo type='smbios'>", "<sysinfo type='fwcfg'>", OTHER),
        ("</oemStrings>", "</oemStrings><entry name='opt/x' file='/etc/shadow'/>", "<sysinfo/entry>"),
        (
            "      <entry>root",
            "      <entry file='/etc/shadow'>root",
            "the attribute file of <sysinfo/oemStrings/entry>",
        ),
        // The console and other channels.
        ("guest-alice_vm1.log", "guest-bob_vm1.log", "guest-bob_vm1.log"),
        ("<serial type='pty'>", "<serial type='file'><source path='/etc/cron.d/x'/>", OTHER),
        ("<serial type='pty'>", "<serial type='pty'><source path='/dev/pts/0'/>", "<devices/serial/source>"),
        ("<serial type='pty'>", "<serial>", "is missing"),
        (
            "<console type='pty'>",
            "<console type='tcp'><source mode='bind' host='0.0.0.0' service='1'/>",
            OTHER,
        ),
        ("<console type='pty'>", "<console type='pty' tty='/dev/pts/0'>", "tty"),
        ("<console type='pty'>", "<console type='pty'><log file='/etc/x'/>", OTHER),
        (
            "<channel type='unix'>",
            "<channel type='unix'><source mode='bind' path='/run/x'/>",
            "the attribute path of <devices/channel/source>",
        ),
        ("<channel type='unix'>", "<channel type='unix'><source mode='connect'/>", "is \"connect\""),
        ("<channel type='unix'>", "<channel type='pipe'><source path='/etc/x'/>", OTHER),
        ("<channel type='unix'>", "<channel type='unix'><log file='/etc/x'/>", "<devices/channel/log>"),
        ("'org.qemu.guest_agent.0'", "'../../x'", "which might name a file"),
        (
            "</devices>",
            "<parallel type='dev'><source path='/dev/lp0'/></parallel></devices>",
            "<devices/parallel>",
        ),
        (
            "</devices>",
            "<graphics type='vnc' socket='/run/x'><listen type='socket'/></graphics></devices>",
            "socket",
        ),
        (
            "</devices>",
            "<graphics type='vnc'><listen type='socket' socket='/run/x'/></graphics></devices>",
            "socket",
        ),
        (
            "</devices>",
            "<graphics type='vnc'><listen type='address' address='0.0.0.0'/></graphics></devices>",
            OTHER,
        ),
        ("</devices>", "<graphics type='vnc' port='5900'><listen type='none'/></graphics></devices>", "port"),
        ("</devices>", "<graphics type='vnc'/></devices>", "<devices/graphics/listen> is missing"),
        (
            "</devices>",
            "<graphics type='egl-headless'><gl rendernode='/dev/dri/x'/></graphics></devices>",
            OTHER,
        ),
        ("</devices>", "<graphics type='sdl' display=':0' xauth='/root/.Xauthority'/></devices>", OTHER),
        ("</devices>", "<audio id='1' type='file' path='/etc/x'/></devices>", OTHER),
        ("</devices>", "<input type='evdev'><source dev='/dev/input/event1'/></input></devices>", OTHER),
        (
            "</devices>",
            "<input type='passthrough'><source evdev='/dev/input/event1'/></input></devices>",
            OTHER,
        ),
        // Networks.
        (
            "<source bridge='br0'/>",
            "<source bridge='br0'/><script path='/tmp/x'/>",
            "<devices/interface/script>",
        ),
        (
            "<source bridge='br0'/>",
            "<source bridge='br0'/><backend tap='/dev/x' vhost='/dev/y'/>",
            "<devices/interface/backend>",
        ),
        (
            "<source bridge='br0'/>",
            "<source bridge='br0'/><target dev='eth0'/>",
            "<devices/interface/target>",
        ),
        (
            "<source bridge='br0'/>",
            "<source bridge='br0'/><rom file='/etc/shadow'/>",
            "the attribute file of <devices/interface/rom>",
        ),
        ("<source bridge='br0'/>", "<source bridge='../br0'/>", "which might name a file"),
        ("<interface type='bridge'>", "<interface type='ethernet'>", OTHER),
        (
            "<interface type='bridge'>\n      <source bridge='br0'/>",
            "<interface type='direct'><source dev='eth0'/>",
            OTHER,
        ),
        (
            "<interface type='bridge'>\n      <source bridge='br0'/>",
            "<interface type='vhostuser'><source type='unix' path='/x' mode='server'/>",
            OTHER,
        ),
        (
            "<source bridge='br0'/>",
            "<source bridge='br0' dev='eth0'/>",
            "the attribute dev of <devices/interface/source>",
        ),
        ("<interface type='bridge'>", "<interface type='hostdev'>", OTHER),
        // Devices of the host's.
        ("<backend model='builtin'/>", "<backend model='random'>/dev/sda</backend>", OTHER),
        ("<backend model='builtin'/>", "<backend model='builtin'>/dev/sda</backend>", "contains text"),
        ("<backend model='builtin'/>", "<backend model='egd' type='udp'/>", OTHER),
        ("</devices>", "<hostdev mode='subsystem' type='pci'/></devices>", "<devices/hostdev>"),
        (
            "</devices>",
            "<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem></devices>",
            "<devices/filesystem>",
        ),
        ("</devices>", "<shmem name='x'/></devices>", "<devices/shmem>"),
        (
            "</devices>",
            "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm></devices>",
            "<devices/tpm>",
        ),
        ("</devices>", "<smartcard mode='host'/></devices>", "<devices/smartcard>"),
        ("</devices>", "<redirdev bus='usb' type='tcp'/></devices>", "<devices/redirdev>"),
        (
            "</devices>",
            "<memory model='nvdimm'><source><path>/etc/x</path></source></memory></devices>",
            "<devices/memory>",
        ),
        ("</devices>", "<vsock model='virtio'/></devices>", "<devices/vsock>"),
        ("</devices>", "<video><driver name='vhostuser'/></video></devices>", "<devices/video/driver>"),
        ("</devices>", "<watchdog model='i6300esb' action='dump'/></devices>", "is \"dump\""),
        ("</devices>", "<novelty/></devices>", "<devices/novelty>"),
        // The domain as a whole.
        ("</devices>", "</devices><seclabel type='none'/>", "<seclabel>"),
        ("</devices>", "</devices><launchSecurity type='sev'/>", "<launchSecurity>"),
        ("</devices>", "</devices><devices/>", "<devices> is there twice"),
        (
            "</devices>",
            "</devices><q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-S'/></q:commandline>",
            "<commandline>",
        ),
        ("</devices>", "</devices><commandline/>", "<commandline>"),
        ("</devices>", "</devices><name xmlns='urn:x'>alice_vm1</name>", "twice"),
        ("</devices>", "</devices><title xmlns='urn:x'>x</title>", "<title>"),
        ("<domain type", "<domain xmlns='urn:x' type", "this is a <domain>"),
        ("<domain type", "<domain xmlns:x='urn:x' x:type='kvm' type", "the attribute type"),
        (
            "</devices>",
            "</devices><memoryBacking><source type='file'/></memoryBacking>",
            "<memoryBacking/source>",
        ),
        (
            "</devices>",
            "</devices><blkiotune><device><path>/dev/sda</path></device></blkiotune>",
            "<blkiotune/device>",
        ),
        ("</devices>", "</devices><resource><partition>/machine</partition></resource>", "<resource>"),
        ("</devices>", "</devices>text", "<domain> contains text"),
        ("<on_crash>destroy", "<on_crash>coredump-destroy", "is \"coredump-destroy\""),
        ("<vcpu>1</vcpu>", "<vcpu>/1</vcpu>", "which might name a file"),
        // XML itself.
        ("<devices>", "<devices><?php x?>", "<?php?>"),
        ("<domain type", "<?x y?><domain type", "<?x?>"),
        ("<domain type", "<!DOCTYPE domain><domain type", "this is no XML"),
        (
            "<domain type",
            "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/shadow'>]><domain type",
            "this is no XML",
        ),
        ("<name>alice_vm1", "<name>&x;", "this is no XML"),
        ("</domain>", "", "this is no XML"),
        ("</domain>", "</domain><domain/>", "this is no XML"),
        ("<acpi/>", "<acpi/><apic a='1' a='2'/>", "this is no XML"),
        ("</devices>", "</devices><q:x/>", "this is no XML"),
    ];

    fn own() -> Own {
        let disk = |path: &str| Disk { path: path.into(), kind: DiskKind::File };
        Own {
            name: "alice_vm1".parse().unwrap(),
            id: ID.parse().unwrap(),
            root: disk("/var/lib/vgrid/machines/1/root.raw"),
            swap: disk("/var/lib/vgrid/machines/1/swap.raw"),
            seed: None,
            console_log: "/var/log/libvirt/qemu/guest-alice_vm1.log".into(),
            boot_loader: "/var/lib/vgrid-machines/pcgrub.img".into(),
            allow_emulation: false,
            is_xen: false,
        }
    }

    fn rendered(own: &Own) -> String {
        rendered_from(TEMPLATE, own)
    }

    fn rendered_from(template: &str, own: &Own) -> String {
        machine::render("kvm.xml", template, &values(own)).unwrap()
    }

    fn values(own: &Own) -> Values {
        let text = |path: &Path| path.display().to_string();
        Values {
            machinename: own.name.to_string(),
            vm_ip: "10.0.2.21".into(),
            vm_hostname: "vm1".into(),
            vm_memory: 128,
            vm_cpus: 1,
            username: "J%C3%BC".into(),
            vm_extra: "opt=\"<a & b>\"".into(),
            volumegroup: "vg1".into(),
            vm_mac: "52:54:0a:00:02:15".into(),
            libvirt: LibvirtValues {
                cpu_mode: "maximum".into(),
                vm_uuid: own.id.to_string(),
                domain_type: own.domain_type().to_owned(),
                boot_loader: text(&own.boot_loader),
                root_disk: text(&own.root.path),
                swap_disk: text(&own.swap.path),
                disk_type: <&str>::from(own.root.kind).to_owned(),
                disk_attribute: own.root.kind.attribute().to_owned(),
                disk_driver: own.disk_driver().to_owned(),
                console_log: text(&own.console_log),
                seed_disk: own.seed.as_ref().map(|seed| text(&seed.path)).unwrap_or_default(),
            },
        }
    }

    /// Replaces a part that occurs once.
    fn with(text: &str, part: &str, other: &str) -> String {
        assert_eq!(text.matches(part).count(), 1, "{part}");
        text.replace(part, other)
    }

    #[test]
    fn the_shipped_template_is_accepted() {
        let text = rendered(&own());
        assert_eq!(complete(&text, &own()).unwrap(), text);
        assert!(text.contains("eth0:off opt=&quot;&lt;a &amp; b&gt;&quot;</entry>"), "{text}");
        assert_eq!(bridges(&text).unwrap(), ["br0"]);
        assert_eq!(identity(&text).unwrap(), ("alice_vm1".to_owned(), Uuid::try_parse(ID).ok()));
        assert!(!restarts_after_poweroff(&text).unwrap());
        let again = with(&text, "<on_poweroff>destroy", "<on_poweroff>restart");
        assert!(complete(&again, &own()).is_ok() && restarts_after_poweroff(&again).unwrap());

        let block = |path: &str| Disk { path: path.into(), kind: DiskKind::Block };
        let (root, swap) = (block("/dev/vg1/xen-root-alice_vm1"), block("/dev/vg1/xen-swap-alice_vm1"));
        let volumes = Own { root, swap, ..own() };
        let text = rendered(&volumes);
        assert!(text.contains("<source dev='/dev/vg1/xen-root-alice_vm1'/>"), "{text}");
        complete(&text, &volumes).unwrap();
        assert!(complete(&text, &own()).is_err());
    }

    #[test]
    fn the_template_for_xen_is_accepted() {
        let own = Own { boot_loader: "/var/lib/vgrid-machines/1/pvgrub.img".into(), is_xen: true, ..own() };
        let template = include_str!("../../../../vmtmpl/xen.xml");
        let text = machine::render("xen.xml", template, &values(&own)).unwrap();
        assert_eq!(complete(&text, &own).unwrap(), text);
        let line = "root=/dev/xvda1 ro vgrid_username=J%C3%BC ip=10.0.2.21::GATEWAY:NETMASK:vm1:eth0:off console=hvc0 opt=\"<a & b>\"";
        assert_eq!(command_line(&text).unwrap(), line);
        assert_eq!(bridges(&text).unwrap(), ["xenbr0"]);
        assert!(!restarts_after_poweroff(&text).unwrap());
        assert!(text.contains("<driver name='qemu' type='raw'/>"), "{text}");
        let volume = |path: &str| Disk { path: path.into(), kind: DiskKind::Block };
        let volumes =
            Own { root: volume("/dev/vg1/xen-root-x"), swap: volume("/dev/vg1/xen-swap-x"), ..own.clone() };
        let by_kernel = machine::render("xen.xml", template, &values(&volumes)).unwrap();
        assert!(by_kernel.contains("<driver name='phy' type='raw'/>"), "{by_kernel}");
        complete(&by_kernel, &volumes).unwrap();
        let kernel = "<kernel>/var/lib/vgrid-machines/1/pvgrub.img</kernel>";
        for (part, other, words) in [
            ("<domain type='xen'>", "<domain type='kvm'>", "vGrid allows only xen"),
            (">linux<", ">hvm<", "vGrid allows only linux"),
            (kernel, "", "<os/kernel> is missing"),
            (kernel, "<kernel/>", "<os/kernel> is \"\""),
            (kernel, "<kernel>/var/lib/vgrid-machines/2/pvgrub.img</kernel>", "vGrid allows only"),
            ("  <os>", "  <bootloader>/bin/sh</bootloader><os>", "<bootloader>"),
            ("  <os>", "  <bootloader_args>x</bootloader_args><os>", "<bootloader_args>"),
            ("</kernel>", "</kernel><initrd>/etc/shadow</initrd>", "<os/initrd>"),
            ("</interface>", "<script path='/bin/sh'/></interface>", "<devices/interface/script>"),
            (
                "</interface>",
                "<backenddomain name='other'/></interface>",
                "<devices/interface/backenddomain>",
            ),
        ] {
            let refused = complete(&with(&text, part, other), &own).unwrap_err().to_string();
            assert!(refused.contains(words), "{other}: {refused}");
        }
        let kvm = Own { is_xen: false, ..own };
        assert!(complete(&text, &kvm).unwrap_err().to_string().contains("allows only kvm"));
        assert!(complete(&rendered(&kvm), &Own { is_xen: true, ..kvm }).is_err());
    }

    #[test]
    fn the_screen_in_the_template_s_comment_is_accepted() {
        let text = rendered(&own());
        let (before, rest) = text.split_once("put this outside of the comment:").unwrap();
        let (screen, after) = rest.split_once("-->").unwrap();
        let text = format!("{before}-->{screen}{after}");
        assert!(text.contains("</memballoon>") || text.contains("<memballoon"));
        complete(&text, &own()).unwrap();
    }

    #[test]
    fn the_uuid_is_vgrid_s() {
        let text = rendered(&own());
        let without = with(&text, &format!("\n  <uuid>{ID}</uuid>"), "");
        let completed = complete(&without, &own()).unwrap();
        assert_eq!(completed, with(&without, "</name>", &format!("</name><uuid>{ID}</uuid>")));
        assert_eq!(completed.lines().count(), without.lines().count());
        assert_eq!(identity(&completed).unwrap().1, Uuid::try_parse(ID).ok());
        assert_eq!(identity(&without).unwrap().1, None);
        let other = with(&text, ID, "019abcde-1111-7222-8333-555555555502");
        let refusal = complete(&other, &own()).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!(
                "line 12: <uuid> is \"019abcde-1111-7222-8333-555555555502\", and vGrid allows only {ID}"
            )
        );
    }

    #[test]
    fn emulation_is_allowed_by_the_configuration() {
        let text = with(&rendered(&own()), "<domain type='kvm'>", "<domain type='qemu'>");
        assert_eq!(complete(&text, &own()).unwrap_err().flaw, Flaw::Emulation);
        assert!(complete(&text, &Own { allow_emulation: true, ..own() }).is_ok());
        let text = with(&text, "<domain type='qemu'>", "<domain type='xen'>");
        assert!(complete(&text, &Own { allow_emulation: true, ..own() }).is_err());
    }

    #[test]
    fn the_template_for_whole_disks_has_a_seed_of_the_machine_s_own() {
        let template = include_str!("../../../../vmtmpl/kvm-cloud.xml");
        let seed = "/var/lib/vgrid/machines/1/seed.img";
        let own = Own { seed: Some(Disk { path: seed.into(), kind: DiskKind::File }), ..own() };
        let text = rendered_from(template, &own);
        assert_eq!(complete(&text, &own).unwrap(), text);
        assert!(text.contains("<mac address='52:54:0a:00:02:15'/>"), "{text}");
        let others = with(&text, seed, "/var/lib/vgrid/machines/2/seed.img");
        let refused = complete(&others, &own).unwrap_err().to_string();
        assert!(refused.contains("machines/2/seed.img\" is no disk of this machine"), "{refused}");
    }

    #[test]
    fn a_seed_is_allowed_if_there_is_one() {
        let seed = "/var/lib/vgrid/machines/1/seed.img";
        let disk = format!(
            "<disk type='file'><driver type='raw'/><source file='{seed}'/><target dev='vdc'/><readonly/></disk></devices>"
        );
        let text = with(&rendered(&own()), "</devices>", &disk);
        assert!(matches!(complete(&text, &own()).unwrap_err().flaw, Flaw::Disk { .. }));
        let own = Own { seed: Some(Disk { path: seed.into(), kind: DiskKind::File }), ..own() };
        complete(&text, &own).unwrap();
    }

    #[test]
    fn what_a_machine_may_also_have_is_accepted() {
        let text = rendered(&own());
        for (part, other) in [
            ("  <uuid>", "  <title>Alice's / machine</title><uuid>"),
            ("  <uuid>", "  <metadata><m:x xmlns:m='urn:m' file='/etc/x'>/etc/x</m:x></metadata><uuid>"),
            (
                "<vcpu>1</vcpu>",
                "<vcpu placement='static' cpuset='0-1'>1</vcpu><memoryBacking><hugepages/></memoryBacking>",
            ),
            (
                "<source bridge='br0'/>",
                "<source bridge='br0'/><filterref filter='clean-traffic'><parameter name='IP' value='10.0.2.21'/></filterref>",
            ),
            (
                "<interface type='bridge'>\n      <source bridge='br0'/>",
                "<interface type='network'>\n      <source network='default'/>",
            ),
            ("<target port='0'/>", "<target port='0'/><alias name='ua-console'/>"),
            (
                "<cpu mode='maximum' match='exact' check='none'>\n    <model fallback='allow'>Nehalem</model>\n  </cpu>",
                "<cpu mode='custom' match='exact'><model fallback='forbid'>EPYC-Rome</model><feature policy='require' name='aes'/><feature policy='disable' name='la57'/></cpu>",
            ),
            ("<name>alice_vm1", "<name><!-- ${machinename} -->alice_<!-- x -->vm1"),
            ("<domain", "<?xml version='1.0' encoding='utf-8'?><domain"),
        ] {
            // A declaration comes first.
            let text = if other.starts_with("<?xml") {
                format!("<?xml version='1.0' encoding='utf-8'?>{text}")
            } else {
                with(&text, part, other)
            };
            if let Err(refusal) = complete(&text, &own()) {
                panic!("{other}: {refusal}");
            }
        }
        let networked = with(
            &text,
            "<interface type='bridge'>\n      <source bridge='br0'/>",
            "<interface type='network'>\n      <source network='default'/>",
        );
        assert_eq!(bridges(&networked).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_definition_that_names_anything_else_is_refused() {
        let text = rendered(&own());
        for (part, other, words) in HOSTILE {
            let hostile = with(&text, part, other);
            match complete(&hostile, &own()) {
                Ok(_) => panic!("accepted: {other}"),
                Err(refusal) => {
                    let said = refusal.to_string();
                    assert!(said.contains(words), "{other}\nsays: {said}\nnot: {words}");
                    assert!(refusal.line.is_some(), "{said}");
                }
            }
        }
        let refused = |text: &str| complete(text, &own()).unwrap_err().flaw;
        assert_eq!(refused("<network/>"), Flaw::NotADomain("network".to_owned()));
        assert!(matches!(refused(""), Flaw::NotXml(_)));
        assert!(matches!(refused("name = 'xl'"), Flaw::NotXml(_)));
        assert!(matches!(refused(&format!("{text}{}", " ".repeat(LONGEST))), Flaw::TooLong(_)));
        for declaration in [
            "<?xml version='1.0' encoding='UTF-7'?>",
            "\u{feff}<?xml version=\"1.0\" encoding = \"utf-16\" ?>",
        ] {
            assert!(matches!(refused(&format!("{declaration}{text}")), Flaw::Encoding(_)));
        }
    }

    #[test]
    fn a_refusal_says_what_and_where() {
        let text = with(
            &rendered(&own()),
            "      <source bridge='br0'/>",
            "\n      <source bridge='br0'\n dev='e'/>",
        );
        let refusal = complete(&text, &own()).unwrap_err();
        let line = text.lines().position(|line| line == " dev='e'/>").unwrap() + 1;
        let name = "the attribute dev of <devices/interface/source>";
        let why = "because it does not know that this names nothing of the host";
        assert_eq!(refusal.to_string(), format!("line {line}: vGrid does not allow {name}, {why}"));
        let error = HypervisorError::from(refusal);
        assert!(matches!(error, HypervisorError::Definition { line: Some(at), .. } if at as usize == line));
    }

    #[test]
    fn what_libvirt_makes_of_a_definition_can_be_read() {
        let text = include_str!("../../../../tests/data/virsh/dumpxml.txt");
        let uuid = Uuid::try_parse("11111111-2222-3333-4444-555555555501").ok();
        assert_eq!(identity(text).unwrap(), ("alice_vm1".to_owned(), uuid));
        assert_eq!(bridges(text).unwrap(), ["virbr9"]);
        assert!(!restarts_after_poweroff(text).unwrap());
        assert!(identity("<domain/>").is_err());
    }
}
