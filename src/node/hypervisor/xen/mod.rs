//! Xen, controlled by `xl` or `xm`.
//!
//! Relevant facts about `xl`, observed with Xen 4.17:
//!
//! - `xl create` returns 0 when the machine was started, not when it has booted, and leaves a
//!   process behind (`xl create FILE`) that restarts the machine when it reboots;
//! - if killed half-way, it leaves a paused domain, perhaps without a name, but with its UUID;
//! - a reboot gives the domain a new number;
//! - every refusal has exit status 3 (or 1, for a file that can't be parsed), so the text must be
//!   examined;
//! - `xl list -v` adds the UUID, a reason code and a security label to the columns of `xl list`.
//!
//! Differences of `xm` (Xen up to 4.4), according to its documentation: it evaluates the
//! configuration as Python, so a syntax error is a traceback; its `list` has the same columns, but
//! no `-v`; `create -n` prints an S-expression instead of JSON; machines are monitored by xend, not
//! by processes of their own; `info` has the same `key : value` lines. `shutdown`, `sysrq` and
//! `destroy` have the same syntax.

mod configurations;
pub(super) mod output;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use strum::IntoStaticStr;

use super::{Boot, Hypervisor, HypervisorError, Installed, Listed, Memory, console_directory};
use crate::config::{NodeGeneral, Toolstack};
use crate::model::names::MachineName;
use crate::model::size::Amount;
use crate::node::{Machine, files};
use crate::system::exec::{self, ExecError, Run};
use crate::system::log::{self, Level};
use crate::system::process::Process;
use crate::template::machine::LibvirtValues;

use configurations::{Configuration, is_installed, parked};

/// The time limit of queries.
const ASK: Duration = Duration::from_secs(30);
/// The time limit for starting and ending a machine: up to 14 s were observed with pygrub and an xz
/// kernel on an emulated host.
const ACT: Duration = Duration::from_secs(240);

/// How long a kernel gets to sync, and to remount.
const WRITE_OUT: Duration = Duration::from_secs(3);

/// This directory exists if and only if systemd is the init system (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// The kind of toolstack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
enum Tool {
    Xl,
    Xm,
}

/// The Xen toolstack of this host.
#[derive(Debug)]
pub struct Xen {
    tool: Tool,
    /// `None` if it is not installed.
    program: Option<PathBuf>,
    candidates: &'static [Tool],
    /// The directory from which the toolstack starts machines with the host.
    auto: PathBuf,
    /// Whether that directory may be missing, because this is not the host's toolstack.
    may_lack_auto: bool,
    /// The directory in which xenconsoled logs the consoles.
    consoles: PathBuf,
}

impl Xen {
    /// Finds the configured toolstack; with `auto`, prefers `xl`.
    pub fn new(general: &NodeGeneral) -> Self {
        Self::of(general.toolstack, general)
    }

    /// Refers to the `xl` of a host whose machines libvirt controls.
    pub fn of_libvirt(general: &NodeGeneral) -> Self {
        Self::of(Toolstack::Libvirt, general)
    }

    fn of(toolstack: Toolstack, general: &NodeGeneral) -> Self {
        let candidates: &'static [Tool] = match toolstack {
            Toolstack::Auto => &[Tool::Xl, Tool::Xm],
            // libvirt's Xen driver needs what xl needs, and nothing that xm needs.
            Toolstack::Xl | Toolstack::Libvirt => &[Tool::Xl],
            Toolstack::Xm => &[Tool::Xm],
        };
        let found = candidates.iter().find_map(|&tool| exec::find(&[tool.into()]).map(|path| (tool, path)));
        let (tool, program) = found.map_or((candidates[0], None), |(tool, path)| (tool, Some(path)));
        let (auto, consoles) = (general.xen_auto_directory.clone(), general.console_log_directory.clone());
        let may_lack_auto = toolstack == Toolstack::Libvirt;
        Self { tool, program, candidates, auto, may_lack_auto, consoles }
    }

    /// Returns whether nothing is started from a directory, because there is none.
    fn lacks_auto(&self) -> bool {
        let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        self.may_lack_auto && self.auto.symlink_metadata().is_err_and(is_missing)
    }

    fn program(&self) -> Result<&Path, HypervisorError> {
        self.program.as_deref().ok_or_else(|| {
            let names: Vec<&str> = self.candidates.iter().map(|&tool| tool.into()).collect();
            HypervisorError::Missing(format!("there is no {} on this host", names.join(" and no ")))
        })
    }

    fn run(
        &self,
        what: &'static str,
        limit: Duration,
        arguments: &[&str],
    ) -> Result<exec::ProgramOutput, HypervisorError> {
        let run = Run::new(self.program()?).limit(limit).args(arguments.iter().copied());
        run.run().map_err(|error| self.explain(what, error))
    }

    fn explain(&self, what: &'static str, error: ExecError) -> HypervisorError {
        match error {
            ExecError::Failed { .. } => output::explain(&error.said()),
            ExecError::TimedOut { limit, .. } => HypervisorError::TimedOut { what, seconds: limit.as_secs() },
            ExecError::NotStarted { source, .. } => {
                let program = self.program.as_deref().unwrap_or(Path::new("xl"));
                HypervisorError::Missing(format!("{}: {source}", program.display()))
            }
            other @ ExecError::Pipe { .. } => HypervisorError::Other(other.to_string()),
        }
    }

    /// Lets the toolstack parse a configuration file of a machine without starting anything, and
    /// checks that it belongs to that machine.
    fn dry_run(&self, machine: &Machine, file: &Path) -> Result<(), HypervisorError> {
        let output = self
            .run("xl create -n", ASK, &["create", "-n", &file.to_string_lossy()])
            .map_err(configurations::without_header)?;
        if self.tool == Tool::Xm {
            return Ok(());
        }
        let described = output::parse_described(&output)?;
        let facts = [
            ("name", described.name, machine.name.to_string()),
            ("uuid", described.uuid, machine.id.to_string()),
        ];
        match facts.into_iter().find(|(_, actual, expected)| actual != expected) {
            Some((key, actual, expected)) => {
                let detail = format!("its {key} is {actual:?}, not {expected:?}");
                Err(HypervisorError::Definition { line: None, detail })
            }
            None => Ok(()),
        }
    }

    /// Returns whether a process with these arguments starts or monitors the machine of that
    /// configuration, and so would restart it: `/usr/lib/xen-4.17/bin/xl create [options] FILE`, as
    /// started here or by xendomains.
    fn is_monitor(&self, arguments: &[String], config: &Path) -> bool {
        let config = config.to_string_lossy();
        let is_xl = |name: &String| Path::new(name).file_name().is_some_and(|name| name == "xl");
        self.tool == Tool::Xl
            && arguments.first().is_some_and(is_xl)
            && arguments.iter().any(|argument| argument == "create")
            && arguments.iter().any(|argument| *argument == config)
    }
}

impl Hypervisor for Xen {
    fn name(&self) -> &'static str {
        self.tool.into()
    }

    fn memory(&self) -> Result<Memory, HypervisorError> {
        output::parse_info(&self.run("xl info", ASK, &["info"])?.text())
    }

    /// libxl requires 2 MiB more than a PV domain's own memory to be free
    /// (`LIBXL_PV_EXTRA_MEMORY`), and the domain's data structures take about another one.
    fn overhead(&self) -> Amount {
        Amount::from_mib(4)
    }

    fn speaks_at_once(&self) -> bool {
        false
    }

    fn domains(&self) -> Result<Vec<Listed>, HypervisorError> {
        let arguments: &[&str] = if self.tool == Tool::Xl { &["list", "-v"] } else { &["list"] };
        output::parse_list(&self.run("xl list", ASK, arguments)?.text())
    }

    fn placeholders(&self, _machine: &Machine) -> LibvirtValues {
        LibvirtValues::default()
    }

    fn check(&self, machine: &Machine, text: &str) -> Result<(), HypervisorError> {
        let file = PathBuf::from(format!("/run/vgrid-check-{}.cfg", std::process::id()));
        files::write_new(&file, configurations::complete(machine, text))?;
        let checked = self.dry_run(machine, &file);
        files::remove(&file)?;
        checked
    }

    fn install(&self, machine: &Machine, text: &str, boot: Boot) -> Result<(), HypervisorError> {
        let file = self.config_file(&machine.name)?;
        if file.symlink_metadata().is_ok() && !is_installed(&file, machine.id) {
            return Err(HypervisorError::DefinitionTaken(file));
        }
        let (installed, other) = match boot {
            Boot::WithHost => (file.clone(), parked(&file)),
            Boot::Off => (parked(&file), file.clone()),
        };
        let temporary = configurations::temporary(&file);
        files::remove(&temporary)?;
        let install = || -> Result<(), HypervisorError> {
            files::write_new(&temporary, configurations::complete(machine, text))?;
            self.dry_run(machine, &temporary)?;
            Ok(files::rename(&temporary, &installed)?)
        };
        let result = install();
        if result.is_err() {
            files::remove(&temporary)?;
        } else if is_installed(&other, machine.id) {
            files::remove(&other)?;
        }
        result
    }

    /// Whole-disk images, which have one, are of type kvm (`config::Node`).
    fn install_seed(&self, _: &Machine, _: &[u8]) -> Result<(), HypervisorError> {
        Err(HypervisorError::Other("a machine of Xen has no seed".to_owned()))
    }

    fn installed(&self, machine: &Machine) -> Result<Option<Boot>, HypervisorError> {
        if self.lacks_auto() {
            return Ok(None);
        }
        let file = self.config_file(&machine.name)?;
        Ok(if is_installed(&file, machine.id) {
            Some(Boot::WithHost)
        } else {
            is_installed(&parked(&file), machine.id).then_some(Boot::Off)
        })
    }

    fn definition(&self, machine: &Machine) -> Result<String, HypervisorError> {
        let file = self.config_file(&machine.name)?;
        match self.installed(machine)? {
            Some(Boot::WithHost) => configurations::read(&file),
            Some(Boot::Off) => configurations::read(&parked(&file)),
            None => Ok(String::new()),
        }
    }

    fn all_installed(&self) -> Result<Vec<Installed>, HypervisorError> {
        if self.lacks_auto() {
            return Ok(Vec::new());
        }
        let dir = self.auto_directory()?;
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(files::at(&dir))? {
            let path = entry.map_err(files::at(&dir))?.path();
            let read = Configuration::read(&path).map_err(files::at(&path))?;
            all.extend(read.map(Configuration::installed));
        }
        Ok(all)
    }

    fn set_boot(&self, machine: &Machine, boot: Boot) -> Result<(), HypervisorError> {
        let file = self.config_file(&machine.name)?;
        let parked = parked(&file);
        match boot {
            Boot::WithHost if is_installed(&parked, machine.id) && file.symlink_metadata().is_err() => {
                Ok(files::rename(&parked, &file)?)
            }
            Boot::Off if is_installed(&file, machine.id) => Ok(files::rename(&file, &parked)?),
            Boot::WithHost | Boot::Off => Ok(()),
        }
    }

    fn started_with_host(&self) -> Result<Option<Vec<uuid::Uuid>>, HypervisorError> {
        Ok(None)
    }

    fn uninstall(&self, machine: &Machine) -> Result<(), HypervisorError> {
        let file = self.config_file(&machine.name)?;
        for file in [&file, &parked(&file)] {
            if is_installed(file, machine.id) {
                files::remove(file)?;
            }
        }
        Ok(files::remove(&configurations::temporary(&file))?)
    }

    /// Under systemd, the process that monitors the machine runs in a scope of its own. In
    /// Apache's, it would be killed when Apache is stopped, and the machine would not come back
    /// after a reboot. The scope is stopped after `xendomains`, which needs these processes to shut
    /// the machines down.
    fn start(&self, machine: &Machine) -> Result<(), HypervisorError> {
        let scope = (self.tool == Tool::Xl && Path::new(SYSTEMD).is_dir())
            .then(|| exec::find(&["systemd-run"]))
            .flatten();
        let run = match scope {
            Some(systemd_run) => Run::new(systemd_run)
                .args(["--quiet", "--scope", "--collect", "--property=Before=xendomains.service"])
                .arg(format!("--description=Xen domain {}", machine.name))
                .arg("--")
                .arg(self.program()?),
            None => Run::new(self.program()?),
        };
        run.limit(ACT).arg("create").arg(self.config_file(&machine.name)?).run().map(|_| ()).map_err(
            |error| {
                let error = configurations::without_header(self.explain("xl create", error));
                output::with_boot_loader(error)
            },
        )
    }

    fn shut_down(&self, domain: &Listed) -> Result<(), HypervisorError> {
        self.run("xl shutdown", ASK, &["shutdown", &domain.number.to_string()]).map(|_| ())
    }

    /// Sends SysRq keys (Linux: admin-guide/sysrq), which work whether or not the guest allows them
    /// to its users: `s` starts writing everything to disk, `u` mounts all file systems read-only.
    fn write_out(&self, domain: &Listed) -> Result<(), HypervisorError> {
        let mut result = Ok(());
        for key in ["s", "u"] {
            let sent = self.run("xl sysrq", ASK, &["sysrq", &domain.number.to_string(), key]);
            result = result.and(sent.map(|_| ()));
            std::thread::sleep(WRITE_OUT);
        }
        result
    }

    fn destroy(&self, domain: &Listed) -> Result<(), HypervisorError> {
        self.run("xl destroy", ACT, &["destroy", &domain.number.to_string()]).map(|_| ())
    }

    fn release(&self, machine: &Machine) {
        let Ok(file) = self.config_file(&machine.name) else { return };
        for process in Process::all() {
            if process.is_roots() && self.is_monitor(&process.arguments(), &file) {
                log::event(Level::Info, "minder.killed", &[("pid", &process.pid)]);
                process.kill();
            }
        }
    }

    fn bridges(&self, text: &str) -> Result<Vec<String>, HypervisorError> {
        Ok(configurations::bridges(text))
    }

    fn restarts_after_shutdown(&self, machine: &Machine) -> Result<bool, HypervisorError> {
        Ok(configurations::restarts(&self.definition(machine)?))
    }

    fn console_log(&self, machine: &MachineName) -> Result<Option<PathBuf>, HypervisorError> {
        // The name given by xenconsoled --log=guest.
        let log = |directory: PathBuf| directory.join(format!("guest-{machine}.log"));
        Ok(console_directory(&self.consoles, machine)?.map(log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Xen {
        /// Refers to a program of a test's own.
        pub fn by(program: PathBuf, general: &NodeGeneral) -> Self {
            Self { program: Some(program), ..Self::of_libvirt(general) }
        }
    }

    #[test]
    fn a_monitoring_process_is_recognized_by_its_configuration() {
        let xen = Xen {
            tool: Tool::Xl,
            program: None,
            candidates: &[Tool::Xl],
            auto: PathBuf::new(),
            may_lack_auto: false,
            consoles: PathBuf::new(),
        };
        let minds = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            xen.is_monitor(&words, Path::new("/etc/xen/auto/a_vm1.cfg"))
        };
        assert!(minds(&["/usr/lib/xen-4.17/bin/xl", "create", "/etc/xen/auto/a_vm1.cfg"]));
        assert!(minds(&["xl", "create", "--quiet", "--defconfig", "/etc/xen/auto/a_vm1.cfg"]));
        assert!(!minds(&["xl", "create", "/etc/xen/auto/a_vm11.cfg"]));
        assert!(!minds(&["vi", "create", "/etc/xen/auto/a_vm1.cfg"]));
    }
}
