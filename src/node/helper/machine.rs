//! `configure`, `start`, `verify`, `stop`, `undo`, `console`, `forget-console`.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::guard::{self, MachineLock};
use super::{Failure, Host, limits, trust, unpack};
use crate::config::{Common, ImageSettings};
use crate::model::fault::{self, Fault};
use crate::model::names::{MachineName, UserName, VirtualHost, VmId};
use crate::model::size::MiB;
use crate::model::wire::ConsoleTail;
use crate::node::filesystem::{self, Complaint, Feature};
use crate::node::hypervisor::{Hypervisor, HypervisorError, Listed, SysRq};
use crate::node::{lvm, template_values};
use crate::system::log::{self, Level};
use crate::template::{TemplateError, machine};

/// How long a machine must have been seen running at least.
const MIN_WATCH: Duration = Duration::from_secs(6);
/// How long it must have been seen running when it never comes to rest.
const BUSY_WATCH: Duration = Duration::from_secs(25);
/// The pause between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a domain that was destroyed may take to be gone.
pub(super) const GONE: Duration = Duration::from_secs(60);

/// The pause that a kernel gets to write out, and to remount, when its machine can't be shut down.
const WRITE_OUT: Duration = Duration::from_secs(3);
/// How much of a console is searched for the kernel's command line, which is among the first lines.
const CONSOLE_HEAD: u64 = 64 << 10;

/// How an installed configuration begins. Whose it is, the rest of the line says.
pub(super) const HEADER: &str = "# vGrid machine ";

fn header(id: VmId) -> String {
    format!("{HEADER}{id} - made and removed by vGrid")
}

impl Host {
    /// The folder where the toolstack finds what to start with the host.
    pub(super) fn auto_directory(&self) -> Result<PathBuf, Failure> {
        trust::directory(&self.config.general.xen_auto_directory)
    }

    fn config_file(&self, machine: &MachineName) -> Result<PathBuf, Failure> {
        Ok(self.auto_directory()?.join(format!("{machine}.cfg")))
    }

    /// Renders, checks and installs the machine's configuration.
    pub fn configure(
        &self,
        lock: &MachineLock,
        image: &ImageSettings,
        memory: MiB,
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
        let values = template_values(&lock.machine, user, &host, ip, memory, group, extra);
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
        // The header is one line, so the template's line numbers are off by one. The UUID comes last and so
        // counts, whatever the template says.
        let text = format!("{}\n{}\nuuid = \"{}\"\n", header(lock.id), text.trim_end(), lock.id);
        let temporary = temporary(&file);
        remove_file(&temporary)?;
        let install = || -> Result<(), Failure> {
            write_new(&temporary, &text)
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
                let told = [("name", described.name), ("uuid", described.uuid)];
                let meant = [lock.machine.to_string(), lock.id.to_string()];
                for ((key, told), meant) in told.into_iter().zip(meant) {
                    if told != meant {
                        return Err(template_error(&format!("its {key} is {told:?}, not {meant:?}")).into());
                    }
                }
            }
            std::fs::rename(&temporary, &file)
                .map_err(|error| Failure::internal(format!("{}: {error}", file.display())))
        };
        let result = install();
        if result.is_err() {
            remove_file(&temporary)?;
        }
        result
    }

    /// Starts the machine. One that runs already is as good.
    pub fn start(&self, lock: &MachineLock, memory: MiB) -> Result<(), Failure> {
        let file = self.config_file(&lock.machine)?;
        let parked = parked(&file);
        if is_installed(&parked, lock.id) && file.symlink_metadata().is_err() {
            rename(&parked, &file)?;
        }
        if !is_installed(&file, lock.id) {
            return Err(Failure::internal(format!("{} is not there, or not this machine's", file.display())));
        }
        let hypervisor = self.hypervisor()?;
        let _start = guard::StartLock::take()?;
        let domains = hypervisor.domains()?;
        if domains.iter().any(|domain| domain.is(lock.id, &lock.machine, false) && domain.is_alive()) {
            return Ok(());
        }
        if domains.iter().any(|domain| domain.name == lock.machine.as_str()) {
            return Err(Fault::DomainExists { domain: lock.machine.clone() }.into());
        }
        self.mark_volumes_used(lock)?;
        // Nobody is to see what an earlier machine of that name has said.
        if let Some(log) = self.console_log(&lock.machine)? {
            remove_log(&log)?;
        }
        let mut result = hypervisor.create(&file, &lock.machine);
        if let Err(HypervisorError::Busy(why)) = &result {
            // It has taken back what it had begun, so a second try costs nothing but time.
            log::event(Level::Warning, "start.again", &[("machine", &lock.machine), ("why", why)]);
            self.remove_domain(lock, &file)?;
            result = hypervisor.create(&file, &lock.machine);
        }
        result.map_err(|error| {
            let detail = error.to_string();
            let fault = match error {
                HypervisorError::NameTaken => Fault::DomainExists { domain: lock.machine.clone() },
                HypervisorError::NoMemory => Fault::NotEnoughMemory {
                    needed: memory.amount(),
                    free: hypervisor.memory().map(|memory| memory.free).unwrap_or_default(),
                },
                HypervisorError::Configuration { line, detail } => Fault::StartFailed {
                    detail: format!("line {}: {detail}", line.unwrap_or_default().saturating_sub(1)),
                },
                HypervisorError::Missing(detail) => Fault::ToolstackMissing { detail },
                HypervisorError::TimedOut { what, seconds } => {
                    Fault::TimedOut { what: what.to_owned(), seconds }
                }
                HypervisorError::NoSuchDomain | HypervisorError::Busy(_) | HypervisorError::Other(_) => {
                    let features = self.unreadable_features(&lock.machine, &detail);
                    let detail = features.map_or(detail.clone(), |features| format!("{features}; {detail}"));
                    Fault::StartFailed { detail: fault::detail(&detail) }
                }
            };
            Failure { fault: Some(fault), detail }
        })
    }

    /// Watches the machine until it has been seen running for a while: present under one number, not crashed,
    /// and having used processor time. A machine that comes to rest (waits for something to do) has booted or
    /// has given up, so it is not watched for as long as one that never rests.
    pub fn verify(&self, id: VmId, machine: &MachineName) -> Result<(), Failure> {
        let hypervisor = self.hypervisor()?;
        let ours = is_installed(&self.config_file(machine)?, id);
        let began = Instant::now();
        // The number under which it is seen, since when, how often at rest in a row.
        let mut seen: Option<(u32, Instant, u32)> = None;
        let mut restarts = 0;
        let mut absent = 0;
        while began.elapsed() < limits::WATCH {
            let domains = hypervisor.domains()?;
            match domains.iter().find(|domain| domain.is(id, machine, ours)) {
                Some(domain) if domain.is_alive() => {
                    absent = 0;
                    let (since, idle) = match seen {
                        Some((number, since, idle)) if number == domain.id => {
                            (since, if domain.is_idle() { idle + 1 } else { 0 })
                        }
                        Some(_) => {
                            restarts += 1;
                            (Instant::now(), 0)
                        }
                        None => (Instant::now(), 0),
                    };
                    seen = Some((domain.id, since, idle));
                    let watched = since.elapsed();
                    let rests = watched >= MIN_WATCH && idle >= 2;
                    if domain.used > 0 && (rests || watched >= BUSY_WATCH) {
                        if self.waits_for_commands(machine)? {
                            return Err(self.did_not_run(machine, "its boot loader waits for commands"));
                        }
                        return self.knows_its_owner(machine);
                    }
                }
                Some(domain) if domain.state.contains('p') => {
                    return Err(self.did_not_run(machine, "it is paused"));
                }
                Some(domain) if domain.state.contains('c') => {
                    return Err(self.did_not_run(machine, "it crashed"));
                }
                // Shut down or dying, or gone: it may be on its way back, under another number.
                _ => {
                    absent += 1;
                    if absent > 8 {
                        let seconds = seen.map_or(0, |(_, since, _)| since.elapsed().as_secs());
                        return Err(self.did_not_run(machine, &format!("it ended within {seconds} s")));
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
        let why = if restarts > 0 { "it keeps restarting" } else { "it does nothing" };
        Err(self.did_not_run(machine, why))
    }

    /// Whether the machine has come no further than its own boot loader, GRUB, which found nothing to start.
    fn waits_for_commands(&self, machine: &MachineName) -> Result<bool, Failure> {
        Ok(is_at_grub(&self.console(machine, 4096)?.text))
    }

    /// The features of the machine's file system that what reads it may not know, as a part of a sentence, if something
    /// that was said shows that this was the trouble.
    fn unreadable_features(&self, machine: &MachineName, said: &str) -> Option<String> {
        let complaint = filesystem::complaint(said)?;
        let head = unpack::head(&self.lvm().device(&lvm::root_volume(machine))).ok()?;
        let hint = unreadable(&head, complaint);
        hint.map(|names| format!("its file system has {names}: see \"File systems\" in ADMIN.md"))
    }

    /// Whether the kernel was handed the name of the machine's owner, as far as that can be seen: by what the
    /// configuration says, and by the command line that a kernel prints first, if it prints to this console.
    fn knows_its_owner(&self, machine: &MachineName) -> Result<(), Failure> {
        let config = read_text(&self.config_file(machine)?, CONSOLE_HEAD)?;
        let Some(parameter) = owner_parameter(&config) else { return Ok(()) };
        let Some(log) = self.console_log(machine)? else { return Ok(()) };
        let said = read_text(&log, CONSOLE_HEAD)?;
        match command_lines(&said).as_slice() {
            [.., last] if !last.split_whitespace().any(|word| word == parameter) => {
                Err(Fault::ParametersLost { detail: fault::detail(last) }.into())
            }
            _ => Ok(()),
        }
    }

    /// The fault, with the console's last words.
    fn did_not_run(&self, machine: &MachineName, why: &str) -> Failure {
        let said = self.console(machine, 4096).map(|tail| tail.text).unwrap_or_default();
        let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
        let last = lines()
            .find(|line| filesystem::complaint(line).is_some())
            .or_else(|| lines().find(|line| line.contains("Kernel panic")))
            .or_else(|| lines().next_back());
        let why = match self.unreadable_features(machine, &said) {
            Some(features) => format!("{why}; {features}"),
            None => why.to_owned(),
        };
        let detail = match last {
            Some(last) => format!("{why}; on its console: {last}"),
            None => why,
        };
        Fault::DidNotRun { detail: fault::detail(&detail) }.into()
    }

    /// Shuts the machine down: asks it, and forces it when it takes too long. First of all its configuration is
    /// put aside, so that it does not come back with the host, whenever this ends. A machine that is stopped
    /// already, or not there at all, is no error.
    pub fn stop(&self, lock: &MachineLock) -> Result<(), Failure> {
        let file = self.config_file(&lock.machine)?;
        let parked = parked(&file);
        if is_installed(&file, lock.id) {
            rename(&file, &parked)?;
        }
        if is_installed(&parked, lock.id) {
            match self.hypervisor() {
                Ok(hypervisor) => {
                    self.shut_down(hypervisor.as_ref(), lock, &read_text(&parked, CONSOLE_HEAD)?)?;
                }
                Err(error) => log::event(Level::Warning, "stop.not-asked", &[("why", &error)]),
            }
        }
        self.remove_domain(lock, &file)?;
        // Of one that was killed while it packed.
        guard::remove_directory(&lock.mount_point())
    }

    /// Asks the machine to shut down and waits until it has, or its time is over. Where the template would start
    /// it again, its kernel is told to leave the disks in order instead.
    fn shut_down(
        &self,
        hypervisor: &dyn Hypervisor,
        lock: &MachineLock,
        config: &str,
    ) -> Result<(), Failure> {
        let find = || -> Result<Option<Listed>, Failure> {
            let domains = hypervisor.domains()?;
            Ok(domains.into_iter().find(|domain| domain.is(lock.id, &lock.machine, true) && domain.id != 0))
        };
        let Some(domain) = find()?.filter(Listed::is_alive) else { return Ok(()) };
        let not_asked = |error: HypervisorError| {
            log::event(Level::Warning, "stop.not-asked", &[("machine", &lock.machine), ("why", &error)]);
        };
        if comes_back(config) {
            for key in [SysRq::Sync, SysRq::RemountReadOnly] {
                if let Err(error) = hypervisor.press(domain.id, key) {
                    not_asked(error);
                }
                std::thread::sleep(WRITE_OUT);
            }
            return Ok(());
        }
        if let Err(error) = hypervisor.shut_down(domain.id) {
            // A guest without Xen's drivers can't be asked.
            not_asked(error);
            return Ok(());
        }
        let end = Instant::now() + self.config.shutdown_timeout();
        while Instant::now() < end {
            match find()? {
                Some(now) if now.id == domain.id && now.is_alive() => std::thread::sleep(LOOK / 2),
                Some(now) if now.id != domain.id => {
                    log::event(Level::Warning, "stop.rebooted", &[("machine", &lock.machine)]);
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
        log::event(Level::Warning, "stop.forced", &[("machine", &lock.machine)]);
        Ok(())
    }

    /// Removes all of the machine, in the order processes, domain, configuration, volumes. What is gone already
    /// is no error; what is not the machine's is not touched.
    pub fn undo(&self, lock: &MachineLock) -> Result<(), Failure> {
        let file = self.config_file(&lock.machine)?;
        self.remove_domain(lock, &file)?;
        for file in [&file, &parked(&file)] {
            if is_installed(file, lock.id) {
                remove_file(file)?;
            }
        }
        remove_file(&temporary(&file))?;
        self.remove_volumes(lock)?;
        guard::remove_directory(&lock.mount_point())
    }

    fn remove_domain(&self, lock: &MachineLock, file: &Path) -> Result<(), Failure> {
        let ours = is_installed(file, lock.id) || is_installed(&parked(file), lock.id);
        let hypervisor = match self.hypervisor() {
            Ok(hypervisor) => hypervisor,
            // The configuration is there before the domain and until after it, so there is no domain.
            Err(_) if !ours => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = Instant::now() + GONE;
        loop {
            if ours {
                guard::kill_minders(|arguments| hypervisor.minds(arguments, file));
            }
            let domains = match hypervisor.domains() {
                Ok(domains) => domains,
                Err(_) if !ours => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let machine: Vec<_> = domains.iter().filter(|d| d.is(lock.id, &lock.machine, ours)).collect();
            if machine.is_empty() {
                return Ok(());
            }
            let mut last = "it does not end".to_owned();
            for domain in machine {
                // Never the control domain, whatever the list may say.
                if domain.id == 0 {
                    return Err(Failure::internal("the list takes the control domain for the machine"));
                }
                match hypervisor.destroy(domain.id) {
                    Ok(()) | Err(HypervisorError::NoSuchDomain) => {}
                    Err(error) => last = error.to_string(),
                }
            }
            if Instant::now() >= end {
                let detail = format!("the domain {}: {last}", lock.machine);
                return Err(Fault::RemovalFailed { detail }.into());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// The file of the machine's console; `None` if consoles are not logged on this host.
    pub(super) fn console_log(&self, machine: &MachineName) -> Result<Option<PathBuf>, Failure> {
        let dir = &self.config.general.console_log_directory;
        if dir.symlink_metadata().is_err() {
            log::event(Level::Warning, "console.not-logged", &[("directory", &dir.display())]);
            return Ok(None);
        }
        // xenconsoled names it so, with --log=guest.
        Ok(Some(trust::directory(dir)?.join(format!("guest-{machine}.log"))))
    }

    /// The last part of the machine's console log.
    pub fn console(&self, machine: &MachineName, bytes: u32) -> Result<ConsoleTail, Failure> {
        let empty = ConsoleTail { text: String::new(), truncated: false };
        let Some(path) = self.console_log(machine)? else { return Ok(empty) };
        let read = || -> io::Result<ConsoleTail> {
            let mut file =
                OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path)?;
            let start = file.metadata()?.len().saturating_sub(bytes.into());
            file.seek(SeekFrom::Start(start))?;
            let mut tail = Vec::new();
            file.take(bytes.into()).read_to_end(&mut tail)?;
            Ok(ConsoleTail { text: printable(&tail), truncated: start > 0 })
        };
        match read() {
            Ok(tail) => Ok(tail),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(empty),
            Err(error) => Err(Failure::internal(format!("{}: {error}", path.display()))),
        }
    }

    /// Removes the console log of a machine that is gone.
    pub fn forget_console(&self, machine: &MachineName) -> Result<(), Failure> {
        // Without a toolstack nothing runs that could have a console.
        let domains = self.hypervisor().and_then(|hypervisor| hypervisor.domains()).unwrap_or_default();
        if domains.iter().any(|domain| domain.name == machine.as_str()) {
            return Err(Failure::internal(format!("{machine} runs, so its console log stays")));
        }
        match self.console_log(machine)? {
            Some(log) => remove_log(&log),
            None => Ok(()),
        }
    }
}

/// The DNS name in a machine's name.
fn virtual_host(machine: &MachineName) -> Result<VirtualHost, Failure> {
    let (_, host) = machine.as_str().rsplit_once('_').unwrap_or_default();
    host.parse().map_err(|fault| Failure::internal(format!("{machine}: {fault}")))
}

/// Whether a configuration is installed that was made for that machine.
fn is_installed(file: &Path, id: VmId) -> bool {
    let open = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(file);
    let mut beginning = String::new();
    let expected = format!("{}\n", header(id));
    open.is_ok_and(|file| file.take(expected.len() as u64).read_to_string(&mut beginning).is_ok())
        && beginning == expected
}

/// Begins with a dot, so that xendomains does not take it for a machine.
fn temporary(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.new"))
}

/// Where a stopped machine's configuration is kept. It begins with a dot, as [`temporary`] does.
pub(super) fn parked(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.stopped"))
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    let renamed = std::fs::rename(from, to).and_then(|()| match to.parent() {
        // Else a loss of power could bring the old name back.
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    });
    renamed.map_err(|error| Failure::internal(format!("{} to {}: {error}", from.display(), to.display())))
}

/// The beginning of a file, at most so many bytes; nothing if there is no such file.
fn read_text(file: &Path, most: u64) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(file)
        .and_then(|file| file.take(most).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::internal(format!("{}: {error}", file.display())))
        }
        _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Whether a machine with this configuration is started again when it shuts down (xl.cfg(5), `on_poweroff`).
fn comes_back(config: &str) -> bool {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "on_poweroff").then(|| value.contains("restart"))
    };
    // The last counts, for xl and for Python.
    config.lines().filter_map(value).next_back().unwrap_or(false)
}

/// The kernel parameter with the owner's name, as the configuration has it.
fn owner_parameter(config: &str) -> Option<&str> {
    let lines = config.lines().filter(|line| !line.trim_start().starts_with('#'));
    let start = lines.filter_map(|line| line.find("vgrid_username=").map(|at| &line[at..])).next_back()?;
    start.split(|c: char| c.is_whitespace() || c == '"' || c == '\'').next()
}

/// Whether the last line of a console is GRUB's prompt.
fn is_at_grub(console: &str) -> bool {
    let last = console.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    ["grub>", "grub rescue>"].iter().any(|prompt| last.starts_with(prompt))
}

/// The names of what a file system has that older programs can't read: its young features, or, if one was complained
/// of and there are none, all that are known.
fn unreadable(head: &[u8], complaint: Complaint) -> Option<String> {
    let features = filesystem::features(head);
    let names = |which: &dyn Fn(&Feature) -> bool| {
        let some = features.iter().filter(|feature| which(feature)).map(|feature| feature.name);
        Some(some.collect::<Vec<_>>().join(", ")).filter(|names| !names.is_empty())
    };
    names(&|feature| feature.young).or_else(|| names(&|_| complaint == Complaint::Certain))
}

/// What a Linux kernel printed as its command line, once for each boot (`Kernel command line:` in all versions,
/// on x86 `Command line:` before it).
fn command_lines(console: &str) -> Vec<&str> {
    console.lines().filter_map(|line| line.split_once("ommand line: ").map(|(_, text)| text.trim())).collect()
}

fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn remove_file(file: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::internal(format!("{}: {error}", file.display())))
        }
        _ => Ok(()),
    }
}

/// Removes a console's log, and the one that logrotate put aside (etc/logrotate.d/vgrid).
fn remove_log(log: &Path) -> Result<(), Failure> {
    let mut older = log.as_os_str().to_owned();
    older.push(".1");
    remove_file(Path::new(&older))?;
    remove_file(log)
}

/// Console output as text: without the control sequences of terminals (ECMA-48), everything else that can't be
/// shown replaced.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' => {}
            '\u{1b}' => match chars.next_if(|&c| matches!(c, '[' | ']' | '(' | ')')) {
                // A sequence ends with a letter or one of @ [ \ ] ^ _ ` { | } ~.
                Some('[') => {
                    while chars.next_if(|&c| ('\u{20}'..='\u{3f}').contains(&c)).is_some() {}
                    chars.next_if(|&c| ('\u{40}'..='\u{7e}').contains(&c));
                }
                // A title, up to BEL or ESC \.
                Some(']') => {
                    while chars.next_if(|&c| !matches!(c, '\u{7}' | '\u{1b}' | '\n')).is_some() {}
                    if chars.next_if(|&c| c == '\u{1b}').is_some() {
                        chars.next_if(|&c| c == '\\');
                    } else {
                        chars.next_if(|&c| c == '\u{7}');
                    }
                }
                // A character set: one more letter.
                Some(_) => {
                    chars.next_if(|&c| c != '\n');
                }
                None => {
                    chars.next_if(|&c| ('\u{30}'..='\u{7e}').contains(&c));
                }
            },
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_its_boot_loader_does_not_run() {
        let grub = "error: unknown filesystem.\nEntering rescue mode...\ngrub rescue> ";
        assert!(is_at_grub(grub) && is_at_grub("\n\ngrub> \n"));
        assert!(!is_at_grub("error: unknown filesystem.\n\n[    0.0] Linux version 6.1\nlogin: "));
        assert!(!is_at_grub(""));
    }

    #[test]
    fn features_are_named_the_young_ones_first() {
        let made = |features: &str| {
            let disk = tempfile::NamedTempFile::new().unwrap();
            disk.as_file().set_len(16 << 20).unwrap();
            let program = crate::system::exec::find(&["mke2fs"]).unwrap();
            let run = crate::system::exec::Run::new(program).args(["-q", "-F", "-t", "ext4", "-O", features]);
            run.arg(disk.path()).run().unwrap();
            let head = unpack::head(disk.path()).unwrap();
            [Complaint::Certain, Complaint::Possible].map(|complaint| unreadable(&head, complaint))
        };
        let young = made("metadata_csum,metadata_csum_seed,orphan_file,64bit");
        let expected = Some("metadata_csum_seed, orphan_file".to_owned());
        assert_eq!(young, [expected.clone(), expected]);
        let old = made("metadata_csum,^metadata_csum_seed,^orphan_file,64bit");
        assert_eq!(old, [Some("metadata_csum, 64bit, extent".to_owned()), None]);
        assert_eq!(unreadable(b"", Complaint::Certain), None);
    }

    #[test]
    fn consoles_become_text() {
        assert_eq!(
            printable(b"\x1b[0;32m  OK  \x1b[0m] up\r\n\x1b]0;title\x07a\tb\x00c"),
            "  OK  ] up\na\tb\u{fffd}c"
        );
        assert_eq!(printable(b"\x1bc\x1b(Bx\xffy\x1b"), "x\u{fffd}y");
        assert_eq!(printable(b"\x1b[?25"), "");
    }

    #[test]
    fn a_configuration_is_known_by_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a_vm1.cfg");
        let id = VmId::generate();
        assert!(!is_installed(&file, id));
        std::fs::write(&file, format!("{}\nname = \"a_vm1\"\n", header(id))).unwrap();
        assert!(is_installed(&file, id));
        assert!(!is_installed(&file, VmId::generate()));
        let link = dir.path().join("link.cfg");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(!is_installed(&link, id), "a link is nobody's");
        assert_eq!(temporary(&file).file_name().unwrap(), ".a_vm1.cfg.new");
    }

    #[test]
    fn a_machines_host_is_the_end_of_its_name() {
        assert_eq!(virtual_host(&"a_b_vm1.x".parse().unwrap()).unwrap().as_str(), "vm1.x");
    }

    #[test]
    fn what_comes_back_is_told_by_the_last_line_that_says_so() {
        assert!(!comes_back("name = 'x'\n"));
        assert!(comes_back("on_poweroff = 'restart'\n"));
        assert!(comes_back("on_poweroff=\"destroy\"\non_poweroff = \"coredump-restart\"\n"));
        assert!(!comes_back("on_poweroff = 'restart'\non_poweroff = 'destroy'\non_reboot = 'restart'\n"));
        assert!(!comes_back("# on_poweroff = 'restart'\n"));
    }

    #[test]
    fn the_owner_is_looked_for_in_what_the_kernel_says_it_was_told() {
        let config =
            "# vgrid_username=x\nextra = \"vgrid_username=J%C3%BC ip=10.0.2.21 quiet\"\nuuid = 'x'\n";
        assert_eq!(owner_parameter(config), Some("vgrid_username=J%C3%BC"));
        assert_eq!(owner_parameter("extra = 'vgrid_username=a'"), Some("vgrid_username=a"));
        assert_eq!(owner_parameter("extra = 'quiet'"), None);
        let console = "[    0.000000] Command line: root=/dev/xvda1 ro None\r\n\
                       [    0.010000] Kernel command line: root=/dev/xvda1 ro None\r\nInit\n";
        assert_eq!(command_lines(console), ["root=/dev/xvda1 ro None"; 2]);
        assert!(command_lines("nothing").is_empty());
    }
}
