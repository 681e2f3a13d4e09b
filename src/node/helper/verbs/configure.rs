//! `configure`: renders, checks and installs a machine's configuration.

use std::net::Ipv4Addr;

use crate::config::{Common, ImageSettings};
use crate::model::fault::{self, Fault};
use crate::model::names::{MachineName, UserName, VirtualHost};
use crate::model::size::{Cpus, MiB};
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::hypervisor::{Boot, HypervisorError, Listed};
use crate::node::{Definition, misfit, trust};
use crate::template::{self, TemplateError};

impl Host {
    /// Renders, checks and installs the machine's configuration, from which it is started with the
    /// host, or not.
    #[allow(clippy::too_many_arguments, reason = "they are the verb's")]
    pub fn configure(
        &self,
        lock: &MachineLock,
        image: &ImageSettings,
        memory: MiB,
        cpus: Cpus,
        ip: Ipv4Addr,
        user: &UserName,
        boot: Boot,
    ) -> Result<(), Failure> {
        let machine = &lock.machine;
        let host = virtual_host(&machine.name)?;
        if MachineName::new(user, &host).ok().as_ref() != Some(&machine.name) {
            return Err(Failure::internal(format!("{} is no machine of {user}'s", machine.name)));
        }
        trust::file(&self.dir.join("common.cfg"))?;
        let common = Common::load(&self.dir).map_err(Failure::internal)?;
        let extra = common
            .extra(&host)
            .ok_or_else(|| Failure::internal(format!("{host} is not in the pool of common.cfg")))?;
        let definition = Definition { machine, user, host: &host, ip, memory, cpus, extra };
        let values = definition.values(&self.config, image.vm_type);
        let template = image.template.file_name().unwrap_or(image.template.as_os_str()).to_string_lossy();
        let template_error = |detail: &str| Fault::TemplateError {
            template: template.clone().into_owned(),
            detail: fault::detail(detail),
        };
        let source = trust::file(&image.template).map_err(|error| {
            let detail = error.to_string();
            Failure { fault: Some(template_error(&detail)), detail }
        })?;
        let text = template::machine::render_file(&source, &values).map_err(|error| match error {
            TemplateError::Broken { message, .. } => template_error(&message),
            TemplateError::Unreadable { source, .. } => template_error(&source.to_string()),
        })?;

        if let Some(flaw) = misfit(&text, &values, image) {
            return Err(template_error(flaw).into());
        }
        let hypervisor = self.hypervisor(image.vm_type);
        let taken = |domain: &Listed| domain.name == machine.name.as_str() && !domain.is(machine, false);
        let exists = || Fault::DomainExists { domain: machine.name.clone() };
        if hypervisor.domains()?.iter().any(taken) {
            return Err(exists().into());
        }
        hypervisor.install(machine, &text, boot).map_err(|error| match error {
            HypervisorError::Definition { line, detail } => {
                let line = line.map_or(String::new(), |line| format!("line {line}: "));
                template_error(&format!("{line}{detail}")).into()
            }
            HypervisorError::NameTaken | HypervisorError::DefinitionTaken(_) => {
                Failure { fault: Some(exists()), detail: error.to_string() }
            }
            HypervisorError::Missing(_)
            | HypervisorError::TimedOut { .. }
            | HypervisorError::File(_)
            | HypervisorError::NoSpace(_) => error.into(),
            other => template_error(&other.to_string()).into(),
        })
    }
}

/// Returns the host name contained in a machine's name.
pub(super) fn virtual_host(machine: &MachineName) -> Result<VirtualHost, Failure> {
    let (_, host) = machine.as_str().rsplit_once('_').unwrap_or_default();
    host.parse().map_err(|fault| Failure::internal(format!("{machine}: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_host_is_the_end_of_its_name() {
        assert_eq!(virtual_host(&"a_b_vm1.x".parse().unwrap()).unwrap().as_str(), "vm1.x");
    }
}
