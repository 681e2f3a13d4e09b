//! The templates of machine configurations, and the bridges that they refer to.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::images::Images;
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::config::{self, Common, Toolstack, VmType};
use crate::model::names::{MachineName, UserName, VirtualHost, VmId};
use crate::model::size::Cpus;
use crate::node::hypervisor::{self, Hypervisor, HypervisorError};
use crate::node::{Definition, Machine, misfit, trust};
use crate::template::machine;

/// Templates, each rendered for an example machine.
pub struct Rendered {
    machine: Machine,
    templates: Vec<Template>,
}

struct Template {
    file: PathBuf,
    /// The type of machines that it is for.
    vm_type: VmType,
    text: String,
}

/// Renders every template for an example machine.
pub fn rendered(
    common: &Common,
    node: &config::Node,
    names: &[(VirtualHost, Ipv4Addr)],
    images: &Images,
) -> Verdict<Rendered> {
    let wrong = || "mend node.cfg";
    let (host, ip) = names.first().ok_or("there is no name").with_remedy(wrong())?;
    let user: UserName = "vgrid-check".parse().with_remedy(wrong())?;
    let name = MachineName::new(&user, host).with_remedy(wrong())?;
    let machine = Machine { id: VmId::generate(), name };
    let definition = Definition {
        machine: &machine,
        user: &user,
        host,
        ip: *ip,
        memory: "128".parse().with_remedy(wrong())?,
        cpus: Cpus::default(),
        extra: common.extra(host).unwrap_or_default(),
    };
    let mut files: Vec<(&Path, VmType)> =
        images.iter().map(|(_, image)| (image.template.as_path(), image.vm_type)).collect();
    files.sort_unstable();
    files.dedup();
    let (mut templates, mut problems) = (Vec::new(), Vec::new());
    for (file, vm_type) in files {
        let its = images.iter().filter(|(_, image)| image.template == file && image.vm_type == vm_type);
        let tags: Vec<&str> = its.map(|(tag, _)| tag.as_str()).collect();
        let text = is_for(file, node.general.toolstack, vm_type, &tags)
            .and_then(|()| template(file, &definition.values(node, vm_type)));
        let fits = |text: String| {
            let values = definition.values(node, vm_type);
            let mut its = images.iter().filter(|(_, image)| image.template == file);
            match its.find_map(|(tag, image)| Some((tag, misfit(&text, &values, image)?))) {
                None => Ok(text),
                Some((tag, flaw)) => Err(Problem::new(
                    format!("{}, for the image {tag}: {flaw}", file.display()),
                    "mend [VMConfigTemplates] in node.cfg",
                )),
            }
        };
        match text.and_then(fits) {
            Ok(text) => templates.push(Template { file: file.to_owned(), vm_type, text }),
            Err(problem) => problems.push(problem),
        }
    }
    let note = templates.iter().map(|each| each.file.display().to_string()).collect::<Vec<_>>().join(", ");
    let is_empty = templates.is_empty();
    Ok(Finding::partial((!is_empty).then_some(Rendered { machine, templates }), note, problems))
}

/// Checks that the hypervisor of this type accepts the rendered templates.
pub fn accepted(rendered: &Rendered, vm_type: VmType, hypervisor: &dyn Hypervisor) -> Verdict<()> {
    for template in rendered.templates.iter().filter(|template| template.vm_type == vm_type) {
        let file = template.file.display();
        let why = match hypervisor.check(&rendered.machine, &template.text) {
            Ok(()) => continue,
            Err(HypervisorError::Definition { line: Some(line), detail }) => {
                format!("{file}, line {line}: {detail}")
            }
            Err(HypervisorError::Definition { line: None, detail }) => format!("{file}: {detail}"),
            Err(error) => format!("{file}: {error}"),
        };
        let remedy = match vm_type {
            VmType::Xen if hypervisor.name() == "libvirt" => {
                format!("edit {file}; vmtmpl/xen.xml in vGrid's source is accepted")
            }
            VmType::Xen => format!("edit {file}; try it with: {} create -n FILE", hypervisor.name()),
            VmType::Kvm => format!("edit {file}; vmtmpl/kvm.xml in vGrid's source is accepted"),
        };
        return Err(Problem::new(why, remedy));
    }
    Ok(Finding::passed((), "accepted"))
}

/// Checks that this host has the bridges that the templates refer to.
pub fn bridges(rendered: &Rendered, node: &config::Node) -> Verdict<()> {
    let mut names = Vec::new();
    for Template { file, vm_type, text } in &rendered.templates {
        let remedy = format!("edit {}", file.display());
        for name in hypervisor::of(*vm_type, &node.general).bridges(text).with_remedy(remedy)? {
            if !Path::new("/sys/class/net").join(&name).join("bridge").is_dir() {
                return Err(Problem::new(
                    format!(
                        "{} names the bridge {name:?}, and this host has none of that name",
                        file.display()
                    ),
                    format!(
                        "make it (INSTALL.md, \"{}\": /etc/network/interfaces and ifup {name}, or nmcli), or edit the template",
                        by_hand(*vm_type)
                    ),
                ));
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(Finding::passed(
        (),
        if names.is_empty() { "the templates name none".to_owned() } else { names.join(", ") },
    ))
}

/// Returns the chapter of INSTALL.md on hosts for these machines.
fn by_hand(vm_type: VmType) -> &'static str {
    match vm_type {
        VmType::Xen => "A Xen host by hand",
        VmType::Kvm => "A KVM host by hand",
    }
}

/// Checks that a template is for machines of this type, and by this toolstack if it is Xen's:
/// libvirt's are XML, and those of `xl` are not.
fn is_for(file: &Path, toolstack: Toolstack, vm_type: VmType, tags: &[&str]) -> Result<(), Problem> {
    let Ok(text) = std::fs::read_to_string(file) else { return Ok(()) };
    let is_xml = text.trim_start_matches('\u{feff}').trim_start().starts_with('<');
    let by_libvirt = toolstack == Toolstack::Libvirt;
    if is_xml == (vm_type == VmType::Kvm || by_libvirt) {
        return Ok(());
    }
    let of_xen = !is_xml || text.contains("machine='xenpv'");
    if vm_type == VmType::Xen && of_xen {
        let (of, other) = if by_libvirt { ("xl", "") } else { ("libvirt", " not") };
        return Err(Problem::new(
            format!(
                "{} is a template for {of}, and the toolstack in node.cfg is{other} libvirt",
                file.display()
            ),
            "mend toolstack or [VMConfigTemplates] in node.cfg (xen.xml is for libvirt, xen-pvgrub for xl)",
        ));
    }
    let kind = if is_xml { VmType::Kvm } else { VmType::Xen };
    let named = |vm_type| match vm_type {
        VmType::Xen => "xen",
        VmType::Kvm => "kvm",
    };
    let (kind, vm_type) = (named(kind), named(vm_type));
    Err(Problem::new(
        format!(
            "{} is a template of type {kind}, and the type of {} is {vm_type}",
            file.display(),
            tags.join(", ")
        ),
        "mend [VMTypes] or [VMConfigTemplates] in node.cfg (kvm.xml is for KVM, xen-pvgrub for Xen)",
    ))
}

/// Renders one template.
fn template(file: &Path, values: &machine::Values) -> Result<String, Problem> {
    let path = file.display();
    let trusted = trust::file(file).map_err(|error| {
        Problem::new(error,
            format!("if it is there: chown root {path} && chmod go-w {path}; else mend [VMConfigTemplates] in node.cfg"),
        )
    })?;
    let text = machine::render_file(&trusted, values).with_remedy(format!("edit {path}"))?;
    // Placeholders in the shipped templates that the administrator has to replace.
    let left = ["GATEWAY", "NETMASK"].into_iter().find(|word| {
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .any(|line| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == *word))
    });
    match left {
        Some(word) => Err(Problem::new(
            format!("{path} still says {word}"),
            format!("edit {path}: the gateway and the netmask of the machines' network"),
        )),
        None => Ok(text),
    }
}
