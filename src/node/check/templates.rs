//! The templates of machine configurations, and the bridges that they refer to.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::images::Images;
use crate::check::{OrElse as _, Problem, Seen, Verdict};
use crate::config::{self, Common};
use crate::model::names::{MachineName, UserName, VirtualHost, VmId};
use crate::model::size::Cpus;
use crate::node::hypervisor::{Hypervisor, HypervisorError};
use crate::node::trust;
use crate::node::{Machine, template_values};
use crate::template::machine;

/// Templates, each rendered for an example machine.
pub struct Rendered {
    machine: MachineName,
    texts: Vec<(PathBuf, String)>,
}

/// Renders every template for an example machine.
pub fn rendered(
    common: &Common,
    node: &config::Node,
    names: &[(VirtualHost, Ipv4Addr)],
    images: &Images,
) -> Verdict<Rendered> {
    let wrong = || "mend node.cfg";
    let (host, ip) = names.first().ok_or("there is no name").or_else_do(wrong())?;
    let user: UserName = "vgrid-check".parse().or_else_do(wrong())?;
    let name = MachineName::new(&user, host).or_else_do(wrong())?;
    let memory = "128".parse().or_else_do(wrong())?;
    let group = node.volume_group();
    let extra = common.extra(host).unwrap_or_default();
    let values = template_values(&name, &user, host, *ip, memory, Cpus::default(), group, extra);
    let mut files: Vec<&Path> = images.iter().map(|(_, image)| image.template.as_path()).collect();
    files.sort_unstable();
    files.dedup();
    let (mut rendered, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        match template(file, &values) {
            Ok(text) => rendered.push((file.to_owned(), text)),
            Err(problem) => problems.push(problem),
        }
    }
    let note = rendered.iter().map(|(file, _)| file.display().to_string()).collect::<Vec<_>>().join(", ");
    let is_empty = rendered.is_empty();
    let rendered = Rendered { machine: name, texts: rendered };
    Ok(Seen::partly((!is_empty).then_some(rendered), note, problems))
}

/// Checks that the toolstack accepts the rendered templates.
pub fn accepted(templates: &Rendered, toolstack: &dyn Hypervisor) -> Verdict<()> {
    let machine = Machine { id: VmId::generate(), name: templates.machine.clone() };
    templates.texts.iter().try_for_each(|(file, text)| dry_run(file, text, &machine, toolstack))?;
    Ok(Seen::well((), "accepted"))
}

/// Lets the toolstack parse a configuration without starting anything.
fn dry_run(file: &Path, text: &str, machine: &Machine, toolstack: &dyn Hypervisor) -> Result<(), Problem> {
    let why = match toolstack.check(machine, text) {
        Ok(()) => return Ok(()),
        Err(HypervisorError::Definition { line: Some(line), detail }) => {
            format!("{}, line {line}: {detail}", file.display())
        }
        Err(HypervisorError::Definition { line: None, detail }) => format!("{}: {detail}", file.display()),
        Err(error) => format!("{}: {error}", file.display()),
    };
    Err(Problem::new(
        why,
        format!("edit {}; try it with: {} create -n FILE", file.display(), toolstack.name()),
    ))
}

/// Checks that this host has the bridges that the templates refer to.
pub fn bridges(templates: &Rendered) -> Verdict<()> {
    let bridges = named_bridges(templates);
    for (name, file) in &bridges {
        if !Path::new("/sys/class/net").join(name).join("bridge").is_dir() {
            return Err(Problem::new(
                format!("{} names the bridge {name:?}, and this host has none of that name", file.display()),
                format!(
                    "make it (INSTALL.md, \"A Xen host by hand\": /etc/network/interfaces, then ifup {name}), or edit the template"
                ),
            ));
        }
    }
    let names: Vec<&str> = bridges.iter().map(|(name, _)| *name).collect();
    Ok(Seen::well((), if names.is_empty() { "the templates name none".to_owned() } else { names.join(", ") }))
}

/// Renders one template.
fn template(file: &Path, values: &machine::Values) -> Result<String, Problem> {
    let path = file.display();
    let trusted = trust::file(file).map_err(|error| {
        Problem::new(error,
            format!("if it is there: chown root {path} && chmod go-w {path}; else mend [VMConfigTemplates] in node.cfg"),
        )
    })?;
    let text = machine::render_file(&trusted, values).or_else_do(format!("edit {path}"))?;
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

/// Returns the bridges that configurations refer to as `bridge=NAME`.
fn named_bridges(templates: &Rendered) -> Vec<(&str, &Path)> {
    let mut bridges = Vec::new();
    for (file, text) in &templates.texts {
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            for (at, word) in line.match_indices("bridge=") {
                let rest = &line[at + word.len()..];
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.:".contains(c)));
                let name = &rest[..end.unwrap_or(rest.len())];
                if !bridges.iter().any(|(known, _)| *known == name) {
                    bridges.push((name, file.as_path()));
                }
            }
        }
    }
    bridges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_are_found_in_configurations() {
        let text = "# bridge=no\nvif = [ \"bridge=xenbr0\", 'mac=00:16:3e:0:0:1,bridge=br.1,script=x' ]\nvif2=\"bridge=xenbr0\"\n";
        let texts = vec![(PathBuf::from("t"), text.to_owned())];
        let templates = Rendered { machine: "a_vm1".parse().unwrap(), texts };
        let names: Vec<&str> = named_bridges(&templates).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["xenbr0", "br.1"]);
    }
}
