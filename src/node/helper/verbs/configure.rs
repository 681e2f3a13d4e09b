//! `configure`: renders, checks and installs a machine's configuration.

use std::net::Ipv4Addr;

use crate::config::{Common, ImageSettings};
use crate::model::fault::{self, Fault};
use crate::model::names::{MachineName, UserName, VirtualHost};
use crate::model::size::{Cpus, MiB};
use crate::node::helper::configurations::{header, is_installed, temporary};
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::{files, trust};
use crate::node::hypervisor::{HypervisorError, Listed};
use crate::node::template_values;
use crate::template::{TemplateError, machine};

impl Host {
    /// Renders, checks and installs the machine's configuration.
    pub fn configure(
        &self,
        lock: &MachineLock,
        image: &ImageSettings,
        memory: MiB,
        cpus: Cpus,
        ip: Ipv4Addr,
        user: &UserName,
    ) -> Result<(), Failure> {
        let host = virtual_host(&lock.machine)?;
        if MachineName::new(user, &host).ok().as_ref() != Some(&lock.machine) {
            return Err(Failure::internal(format!("{} is no machine of {user}'s", lock.machine)));
        }
        trust::file(&self.dir.join("common.cfg"))?;
        let common = Common::load(&self.dir).map_err(Failure::internal)?;
        let extra = common
            .extra(&host)
            .ok_or_else(|| Failure::internal(format!("{host} is not in the pool of common.cfg")))?;
        let group = &self.config.general.volume_group_name;
        let values = template_values(&lock.machine, user, &host, ip, memory, cpus, group, extra);
        let template = image.template.file_name().unwrap_or(image.template.as_os_str()).to_string_lossy();
        let template_error = |detail: &str| Fault::TemplateError {
            template: template.clone().into_owned(),
            detail: fault::detail(detail),
        };
        let source = trust::file(&image.template).map_err(|failure| Failure {
            fault: Some(template_error(&failure.detail)),
            detail: failure.detail,
        })?;
        let text = machine::render_file(&source, &values).map_err(|error| match error {
            TemplateError::Broken { message, .. } => template_error(&message),
            TemplateError::Unreadable { source, .. } => template_error(&source.to_string()),
        })?;

        let hypervisor = self.hypervisor()?;
        let taken = |domain: &Listed| {
            domain.name == lock.machine.as_str() && !domain.is(lock.id, &lock.machine, false)
        };
        if hypervisor.domains()?.iter().any(taken) {
            return Err(Fault::DomainExists { domain: lock.machine.clone() }.into());
        }
        let file = self.config_file(&lock.machine)?;
        if file.symlink_metadata().is_ok() && !is_installed(&file, lock.id) {
            return Err(Failure {
                fault: Some(Fault::DomainExists { domain: lock.machine.clone() }),
                detail: format!("{} is there, and not vGrid's", file.display()),
            });
        }
        // The header takes one line, so line numbers are off by one. The UUID comes last, so that
        // it overrides whatever the template contains.
        let text = format!("{}\n{}\nuuid = \"{}\"\n", header(lock.id), text.trim_end(), lock.id);
        let temporary = temporary(&file);
        files::remove(&temporary)?;
        let install = || -> Result<(), Failure> {
            files::write_new(&temporary, &text)
                .map_err(|error| Failure::internal(format!("{}: {error}", temporary.display())))?;
            let described = hypervisor.check(&temporary).map_err(|error| match error {
                HypervisorError::Configuration { line, detail } => {
                    let line =
                        line.map_or(String::new(), |line| format!("line {}: ", line.saturating_sub(1)));
                    Failure::from(template_error(&format!("{line}{detail}")))
                }
                HypervisorError::Missing(_) | HypervisorError::TimedOut { .. } => error.into(),
                other => template_error(&other.to_string()).into(),
            })?;
            if let Some(described) = described {
                let actual = [("name", described.name), ("uuid", described.uuid)];
                let expected = [lock.machine.to_string(), lock.id.to_string()];
                for ((key, actual), expected) in actual.into_iter().zip(expected) {
                    if actual != expected {
                        return Err(
                            template_error(&format!("its {key} is {actual:?}, not {expected:?}")).into()
                        );
                    }
                }
            }
            std::fs::rename(&temporary, &file)
                .map_err(|error| Failure::internal(format!("{}: {error}", file.display())))
        };
        let result = install();
        if result.is_err() {
            files::remove(&temporary)?;
        }
        result
    }
}

/// Returns the host name contained in a machine's name.
fn virtual_host(machine: &MachineName) -> Result<VirtualHost, Failure> {
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
