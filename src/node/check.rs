//! The node's own checks for `vgrid-check`: images, templates, Xen, LVM, sudo, the helper, the way to the server.

use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgi::policy::ENDPOINTS;
use crate::check::apache::{self, Own, message};
use crate::check::common::{Ground, skew};
use crate::check::rights::{self, WEB_USER};
use crate::check::{Checks, Found, OrElse as _, Problem, Seen, Verdict};
use crate::config::{self, Common, ImageSettings, VmType};
use crate::model::lease::Moment;
use crate::model::names::{ImageTag, MachineName, RegistryId, RequestId, UserName, VirtualHost};
use crate::model::sign::Recipient;
use crate::model::size::{Amount, GiB};
use crate::remote::{Answer, Client, RemoteError};
use crate::system::exec::{self, ExecError, Run};
use crate::system::{address, clock, pin};
use crate::template::machine;

use super::helper::consoles::{self, MOST};
use super::helper::{as_nobody, trust};
use super::host::HostState;
use super::hypervisor::{self, Hypervisor, HypervisorError};
use super::lvm::{Group, Lvm, LvmError};
use super::{HELPER, WORKER, filesystem, image, template_values};

/// The time that the server has for an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// What an installed image needs.
type Images = Vec<(ImageTag, ImageSettings)>;
/// A template and what it becomes for some machine.
type Rendered = Vec<(PathBuf, String)>;

/// Makes the node's checks.
pub fn run(checks: &mut Checks, ground: &Ground) {
    let node = ground.node.as_ref();
    let both = || ground.common.as_ref().and(ground.node.as_ref());
    checks.check("own name", ground.common.as_ref(), own_name);
    apache::site(checks, "node's site", &ground.includes, "vgrid-node", "/cgi-bin/node/");
    let request = checks.request.clone();
    checks.check("node answers", node, |node| {
        let own = Own::new(&ground.own_url, &request, &node.general.ca_file);
        for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.name.starts_with("node/")) {
            own.must_refuse(endpoint.name, endpoint.methods.contains(&"POST"))?;
        }
        Ok(Seen::well((), "strangers are refused"))
    });
    server(checks, ground, &request);

    checks.check_as_root("records", node.and(ground.web.as_ref()), |(node, web)| {
        let folder = &node.general.state_directory;
        rights::private_folder(folder, web)?;
        Ok(Seen::well((), folder.display()))
    });
    let is_root = checks.is_root();
    let images = checks.check("images", both().and(ground.web.as_ref()), |((common, node), _)| {
        Ok(images(common, node, is_root))
    });
    checks.check_as_root("saved images", node.and(ground.web.as_ref()), |(node, _)| {
        images_can_be_saved(&node.general.image_directory)
    });
    checks.check_as_root("packing", Found::Known(()), |()| packing());
    let programs = checks.check("file system programs", images.as_ref(), makers);
    checks.check_as_root("file systems", images.as_ref().and(programs), |(images, ())| {
        Ok(file_systems(images))
    });
    let templates = checks.check(
        "templates",
        both().and(ground.names.as_ref()).and(images),
        |(((common, node), names), images)| templates(common, node, names, &images),
    );

    let xen = checks.check("Xen", Found::Known(()), |()| under_xen());
    let toolstack = checks.check_as_root("toolstack", node.and(xen), |(node, ())| {
        let start = "apt-get install xen-utils && systemctl restart xen; if that fails: journalctl -u xen";
        let toolstack = hypervisor::open(VmType::Xen, node.general.toolstack).or_else_do(start)?;
        let memory = toolstack.memory().or_else_do(start)?;
        let note = format!(
            "{} answers, {} of {} MiB are free",
            toolstack.name(),
            memory.free.mib(),
            memory.total.mib()
        );
        Ok(Seen::well(toolstack, note))
    });
    checks.check_as_root(
        "templates for the toolstack",
        templates.as_ref().and(toolstack),
        |(files, toolstack)| {
            files.iter().try_for_each(|(file, text)| dry_run(file, text, toolstack.as_ref()))?;
            Ok(Seen::well((), "accepted"))
        },
    );
    checks.check("bridge", templates.as_ref(), bridges);
    checks.check("autostart", node, |node| {
        let folder = &node.general.xen_auto_directory;
        let make = format!("install -d -o root -g root -m 755 {}", folder.display());
        trust::directory(folder).map_err(|failure| Problem::new(failure.detail, make))?;
        Ok(Seen::well((), folder.display()))
    });
    let logged = checks.check("consoles", node, consoles_logged);
    checks.check_as_root("console logs", node.and(logged), |(node, ())| console_logs(node));

    let group = checks.check_as_root("volume group", node, volume_group);
    checks.check("free space", node.and(group), |(node, group)| free_space(node, &group));

    let sudo = checks.check_as_root("sudo's configuration", Found::Known(()), |()| sudoers());
    let rule = checks.check_as_root("sudo", sudo.and(ground.web.as_ref()), |_| sudo_rule());
    let helper = checks.check("helper", Found::Known(()), |()| program(HELPER));
    checks.check("worker", Found::Known(()), |()| program(WORKER));
    checks.check_as_root("helper answers", rule.and(helper).and(node), |_| helper_answers());
}

fn own_name(common: &Common) -> Verdict<()> {
    let own = nix::unistd::gethostname().or_else_do("hostnamectl set-hostname NAME")?;
    let own = own.to_string_lossy();
    let host = common.physical_hosts.iter().find(|(host, _)| host.is_called(&own));
    match host {
        Some((host, maximum)) => Ok(Seen::well((), format!("{host}, at most {maximum} machines"))),
        None => Err(Problem::new(
            format!("this host is called {own}, and [PhysicalHostsPool] of common.cfg has no such name"),
            format!(
                "enter it in common.cfg (on all machines): \"{own}\" = 5; or: hostnamectl set-hostname NAME"
            ),
        )),
    }
}

/// The way to the server: its name, that it answers, that it has our key, and its clock.
fn server(checks: &mut Checks, ground: &Ground, request: &RequestId) {
    let node = ground.node.as_ref();
    let name = checks.check("server's name", node, |node| {
        let server = &node.general.server_hostname;
        if !address::resolves(server.as_str()) {
            return Err(Problem::new(
                format!("{server}, the serverHostname of node.cfg, has no address"),
                "enter it in the DNS or in /etc/hosts, or mend serverHostname",
            ));
        }
        // Where server and node are one machine, its name may well be its own.
        if ground.server.as_ref().known().is_none()
            && let Some(from) = address::astray(server.as_str())
        {
            return Err(Problem::new(
                format!("{server}, the serverHostname of node.cfg, has a loopback address here: {from}"),
                "give it the server's address there; or if the server is this machine, see why server.cfg is not here",
            ));
        }
        Ok(Seen::well((), server))
    });
    let answered = checks.check("server answers", node.and(name), |(node, ())| {
        let url = node.server_url("status");
        let client = Client::stranger(request, LIMIT, &node.general.ca_file);
        let answer = reach(&url, client.post(&Recipient::Server, &url, &()))?;
        Ok(Seen::well((answer.date, clock::now()), url))
    });
    checks.check("clock", answered.as_ref(), |(theirs, ours)| clock_agrees(*theirs, *ours));
    checks.check("server's key", node.and(ground.key.as_ref()).and(answered.as_ref()), |((node, ()), _)| {
        let key = node.key().or_else_do("see INSTALL.md")?;
        let url = node.server_url("status");
        let registry = obeyed(node)?;
        let client = Client::new(&key, registry, request, LIMIT, &node.general.ca_file);
        // Signed, but no report: refused for that, and only after signature and registry have been found right.
        let answer = client.post(&Recipient::Server, &url, &()).or_else_do("run it again")?;
        if answer.status == 403 {
            let path = node.general.key_file.display();
            return Err(Problem::new(
                message(&answer).unwrap_or_else(|| format!("{url}: HTTP 403")),
                format!("if the clocks agree: scp {}:{path} {path}", node.general.server_hostname),
            ));
        }
        if answer.status == 409 {
            return Err(Problem::new(
                message(&answer).unwrap_or_else(|| format!("{url}: HTTP 409")),
                format!(
                    "on the server: vgrid-registry restore BACKUP; or, to obey its new registry from now on: rm {}",
                    pin::file(&node.general.state_directory).display()
                ),
            ));
        }
        let registry = registry.map_or_else(|| "not met yet".to_owned(), |id| id.to_string());
        Ok(Seen::well((), format!("the same as here; its registry: {registry}")))
    });
}

/// The registry that this host obeys.
fn obeyed(node: &config::Node) -> Result<Option<RegistryId>, Problem> {
    let state = &node.general.state_directory;
    pin::read(state).map_err(|error| {
        let file = pin::file(state);
        Problem::new(
            format!("{}: {error}", file.display()),
            format!("rm {}: the next order of the server makes it anew", file.display()),
        )
    })
}

/// What the server answers to a stranger: a refusal of vGrid's own.
fn reach(url: &str, answer: Result<Answer, RemoteError>) -> Result<Answer, Problem> {
    let answer = answer.map_err(|error| {
        Problem::new(
            format!("{url}: {error}"),
            "start Apache on the server, open the way to it, or mend serverURL in node.cfg",
        )
    })?;
    match message(&answer) {
        Some(text) if answer.status == 403 && text.starts_with("Refused") => Ok(answer),
        Some(text) => Err(Problem::new(format!("{url}: {text}"), "run vgrid-check on the server")),
        None => Err(Problem::new(
            format!("{url}: HTTP {}, and it is not vGrid that answers", answer.status),
            "run vgrid-check on the server, or mend serverURL in node.cfg",
        )),
    }
}

fn clock_agrees(theirs: Option<Moment>, ours: Moment) -> Verdict<()> {
    let kept = exec::find(&["timedatectl"])
        .and_then(|program| {
            Run::new(program)
                .args(["show", "-p", "NTPSynchronized", "--value"])
                .limit(Duration::from_secs(10))
                .run()
                .ok()
        })
        .is_some_and(|said| said.text().trim() == "yes");
    let kept = if kept { "kept by NTP" } else { "nothing is known to keep it right" };
    match theirs {
        Some(theirs) => {
            let skew = skew("the server", theirs, ours)?;
            Ok(Seen::well((), format!("{} s from the server's; {kept}", skew.abs())))
        }
        None => {
            Err(Problem::new("the server does not tell its time", "take out what removes its Date header"))
        }
    }
}

/// The images of `common.cfg` on this host.
fn images(common: &Common, node: &config::Node, is_root: bool) -> Seen<Images> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (tag, _) in &common.images {
        match image_file(tag, node, is_root) {
            Ok(settings) => found.push((tag.clone(), settings)),
            Err(problem) => problems.push(problem),
        }
    }
    let note = found.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>().join(", ");
    Seen::partly((!found.is_empty()).then_some(found), note, problems)
}

fn image_file(tag: &ImageTag, node: &config::Node, is_root: bool) -> Result<ImageSettings, Problem> {
    use std::io::Read as _;
    let settings = node.image(tag).or_else_do("add the line, or a default, to node.cfg")?;
    let path = settings.file.display();
    let (file, _) = image::open(&settings.file)
        .map_err(|error| format!("the file of the image {tag}, {path}: {}", rights::words(&error)))
        .or_else_do(format!(
            "copy it there, or mend [VMImageFiles] in node.cfg, or take {tag} out of common.cfg"
        ))?;
    let mut head = Vec::new();
    file.take(512)
        .read_to_end(&mut head)
        .map_err(|error| format!("{path}: {error}"))
        .or_else_do(format!("copy {path} again"))?;
    if image::Format::of(&head).is_none() {
        return Err(Problem::new(
            format!("{path} is neither a tar archive nor gzip, xz or zstd"),
            format!("make it with: tar -C ROOT -czf {path} ."),
        ));
    }
    if is_root && !rights::web_user_reads(&settings.file) {
        return Err(Problem::new(
            format!("{WEB_USER} can't read {path}"),
            format!("chmod a+r {path}, and a+x its folders"),
        ));
    }
    Ok(settings)
}

/// Whether people's images can be put into the folder of images, renamed and deleted there.
fn images_can_be_saved(folder: &Path) -> Verdict<()> {
    let path = folder.display();
    // The 1 keeps the web server's user from removing what is not its own.
    let make = format!("install -d -o root -g {WEB_USER} -m 1775 {path}");
    rights::facts(folder, &make)?;
    if !rights::web_user_writes(folder) {
        return Err(Problem::new(
            format!("{WEB_USER} can't write to {path}, so no image can be saved"),
            make,
        ));
    }
    Ok(Seen::well((), format!("{WEB_USER} can write to {path}")))
}

/// Whether tar can be run as nobody who may read everything.
fn packing() -> Verdict<()> {
    let said = as_nobody("tar").arg("--version").run().map_err(|error| {
        Problem::new(
            format!("tar can't be run with few rights, so no image can be saved: {}", said(&error)),
            "apt-get install tar util-linux (setpriv is in it, of version 2.33 or later)",
        )
    })?;
    Ok(Seen::well((), said.text().lines().next().unwrap_or_default()))
}

fn makers(images: &Images) -> Verdict<()> {
    let mut programs: Vec<&str> =
        images.iter().filter_map(|(_, image)| Some(image.make_filesystem.first()?.as_str())).collect();
    programs.sort_unstable();
    programs.dedup();
    for program in &programs {
        let is_program =
            std::fs::metadata(program).is_ok_and(|facts| facts.is_file() && facts.mode() & 0o111 != 0);
        if !is_program {
            return Err(Problem::new(
                format!("[XenDeployerFSCreateCmd] of node.cfg: there is no program {program}"),
                "install it (apt-get install e2fsprogs), or mend node.cfg",
            ));
        }
    }
    Ok(Seen::well((), programs.join(", ")))
}

/// The size of a disk on which file systems are made to see what becomes of it: XFS wants 300 MiB. It is sparse.
const TRIAL: u64 = 320 << 20;

/// What each of the commands makes: a file system that vGrid mounts, and with no feature that programs of some years
/// ago can't read, unless the command itself says that it is wanted.
fn file_systems(images: &Images) -> Seen<()> {
    let mut commands: Vec<(&[String], Vec<&str>)> = Vec::new();
    for (tag, image) in images {
        match commands.iter_mut().find(|(command, _)| *command == image.make_filesystem.as_slice()) {
            Some((_, tags)) => tags.push(tag.as_str()),
            None => commands.push((&image.make_filesystem, vec![tag.as_str()])),
        }
    }
    let (mut notes, mut problems) = (Vec::new(), Vec::new());
    for (command, tags) in commands {
        match made_by(command).and_then(|head| judge_made(command, &tags.join(", "), &head)) {
            Ok(note) => notes.push(note),
            Err(problem) => problems.push(problem),
        }
    }
    notes.sort_unstable();
    notes.dedup();
    Seen::partly(Some(()), notes.join("; "), problems)
}

/// The beginning of what a command makes of an empty disk.
fn made_by(command: &[String]) -> Result<Vec<u8>, Problem> {
    use std::io::Read as _;
    let disk = PathBuf::from(format!("/run/vgrid-check-{}.disk", std::process::id()));
    let make = || -> Result<Vec<u8>, String> {
        let options =
            std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&disk);
        let file = options.map_err(|error| format!("{}: {error}", disk.display()))?;
        file.set_len(TRIAL).map_err(|error| format!("{}: {error}", disk.display()))?;
        let (program, args) = command.split_first().ok_or("an empty command")?;
        let run = Run::new(program).args(args).arg(&disk).run();
        run.map_err(|error| said(&error))?;
        let mut head = Vec::new();
        let read = file.take(filesystem::HEAD as u64).read_to_end(&mut head);
        read.map(|_| head).map_err(|error| error.to_string())
    };
    let made = make().map_err(|why| format!("{}: {why}", command.join(" ")));
    std::fs::remove_file(&disk).or_else_do(format!("rm {}", disk.display()))?;
    made.or_else_do("mend [XenDeployerFSCreateCmd] of node.cfg; there must be some MiB free in /run")
}

fn judge_made(command: &[String], tags: &str, head: &[u8]) -> Result<String, Problem> {
    let words = command.join(" ");
    let Some(kind) = filesystem::kind(head) else {
        return Err(Problem::new(
            format!("{words} makes none of ext2, ext3, ext4, xfs and btrfs"),
            "choose another program in [XenDeployerFSCreateCmd] of node.cfg",
        ));
    };
    let features = filesystem::features(head);
    // Whoever names a feature, to have it or not, has thought of it.
    let unasked = || features.iter().filter(|feature| feature.young && !words.contains(feature.name));
    if unasked().next().is_none() {
        let names: Vec<&str> = features.iter().map(|feature| feature.name).collect();
        return Ok(format!("{tags}: {} {}", kind.mount_type(), names.join(",")).trim_end().to_owned());
    }
    let each: Vec<String> =
        unasked().map(|feature| format!("{} (needs {})", feature.name, feature.needs)).collect();
    let off: Vec<String> = unasked().map(|feature| format!("^{}", feature.name)).collect();
    let on: Vec<&str> = unasked().map(|feature| feature.name).collect();
    Err(Problem::new(
        format!("{words} makes file systems that older images can't read: {}", each.join(", ")),
        format!(
            "add -O {} to it in [XenDeployerFSCreateCmd] of node.cfg; or, if {tags} can read them, -O {}",
            off.join(","),
            on.join(",")
        ),
    ))
}

/// Fills every template in for some machine.
fn templates(
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
    let group = &node.general.volume_group_name;
    let values =
        template_values(&name, &user, host, *ip, memory, group, common.extra(host).unwrap_or_default());
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
    Ok(Seen::partly((!rendered.is_empty()).then_some(rendered), note, problems))
}

fn template(file: &Path, values: &machine::Values) -> Result<String, Problem> {
    let path = file.display();
    let trusted = trust::file(file).map_err(|failure| {
        Problem::new(
            failure.detail,
            format!("if it is there: chown root {path} && chmod go-w {path}; else mend [VMConfigTemplates] in node.cfg"),
        )
    })?;
    let text = machine::render_file(&trusted, values).or_else_do(format!("edit {path}"))?;
    // The words that stand in the shipped templates for what nobody but the administrator knows.
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

/// Lets the toolstack read a configuration, without starting anything.
fn dry_run(file: &Path, text: &str, toolstack: &dyn Hypervisor) -> Result<(), Problem> {
    let copy = PathBuf::from(format!("/run/vgrid-check-{}.cfg", std::process::id()));
    let write = || -> std::io::Result<()> {
        use std::io::Write as _;
        let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy);
        options.and_then(|mut file| file.write_all(text.as_bytes()))
    };
    write().map_err(|error| format!("{}: {error}", copy.display())).or_else_do("make room in /run")?;
    let checked = toolstack.check(&copy);
    std::fs::remove_file(&copy).or_else_do(format!("rm {}", copy.display()))?;
    let why = match checked {
        Ok(_) => return Ok(()),
        Err(HypervisorError::Configuration { line: Some(line), detail }) => {
            format!("{}, line {line}: {detail}", file.display())
        }
        Err(error) => format!("{}: {error}", file.display()),
    };
    Err(Problem::new(
        why,
        format!("edit {}; try it with: {} create -n FILE", file.display(), toolstack.name()),
    ))
}

/// The bridges that configurations name: `bridge=NAME`.
fn named_bridges(templates: &Rendered) -> Vec<(&str, &Path)> {
    let mut bridges = Vec::new();
    for (file, text) in templates {
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

fn bridges(templates: &Rendered) -> Verdict<()> {
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

fn under_xen() -> Verdict<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if read("/sys/hypervisor/type").trim() != "xen" {
        return Err(Problem::new(
            "this host does not run under Xen",
            "apt-get install xen-system-amd64, and choose the entry with Xen at boot (INSTALL.md, \"A Xen host by hand\")",
        ));
    }
    if read("/proc/xen/capabilities").contains("control_d") {
        return Ok(Seen::well((), "this is the control domain"));
    }
    Err(Problem::new(
        "this is not Xen's control domain, or /proc/xen is not mounted",
        "mount -t xenfs xenfs /proc/xen; if that does not help, this is a guest",
    ))
}

/// Whether the toolstack logs the consoles, where vGrid looks for them.
fn consoles_logged(node: &config::Node) -> Verdict<()> {
    let folder = &node.general.console_log_directory;
    trust::directory(folder).map_err(|failure| {
        Problem::new(failure.detail, format!("install -d -o root -g root -m 755 {}", folder.display()))
    })?;
    let configure =
        "XENCONSOLED_ARGS=\"--log=guest\" in /etc/default/xen, then: systemctl restart xen, or reboot";
    let daemon = processes()
        .into_iter()
        .find(|words| words.first().is_some_and(|program| program.ends_with("xenconsoled")))
        .ok_or("xenconsoled does not run")
        .or_else_do(configure)?;
    let logs = daemon.iter().any(|word| matches!(word.as_str(), "--log=guest" | "--log=all"));
    if !logs {
        return Err(Problem::new("xenconsoled runs without --log=guest, so no console is logged", configure));
    }
    Ok(Seen::well((), folder.display()))
}

/// How large a console's log may have become, in bytes: what xenconsoled writes of one guest within some minutes.
const LARGE_LOG: u64 = 20 * MOST;

/// What keeps the logs of consoles short where nothing asks this host what it has.
const LOGROTATE: &str = "/etc/logrotate.d/vgrid";

/// Whether the logs of consoles are kept short.
fn console_logs(node: &config::Node) -> Verdict<()> {
    let folder = &node.general.console_log_directory;
    let mut total = 0;
    for entry in std::fs::read_dir(folder).or_else_do(format!("ls -ld {}", folder.display()))? {
        let path = entry.or_else_do("run it again")?.path();
        // One may just have been removed with its machine.
        let Ok(facts) = std::fs::symlink_metadata(&path) else { continue };
        let taken = consoles::taken(&facts);
        if taken > LARGE_LOG {
            return Err(Problem::new(
                format!("{} takes {} MiB", path.display(), taken >> 20),
                "see that upkeep runs on the server and reaches this host, which then cuts the logs of its machines \
                 (INSTALL.md); of another's: truncate -s 0 FILE",
            ));
        }
        total += taken;
    }
    std::fs::metadata(LOGROTATE)
        .map_err(|error| format!("{LOGROTATE}: {}", rights::words(&error)))
        .or_else_do("make install puts it there")?;
    let rotates = exec::find(&["logrotate"]).is_some();
    let rotated = if rotates { "" } else { "; there is no logrotate on this host, so only vGrid cuts them" };
    Ok(Seen::well((), format!("{} MiB in {}{rotated}", total.div_ceil(1 << 20), folder.display())))
}

/// The arguments of all processes.
fn processes() -> Vec<Vec<String>> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_name().to_str()?.parse::<u32>().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            Some(
                line.split(|&byte| byte == 0)
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect(),
            )
        })
        .collect()
}

fn volume_group(node: &config::Node) -> Verdict<Group> {
    let name = &node.general.volume_group_name;
    let group = Lvm::new(name).group().map_err(|error| {
        let remedy = match error {
            LvmError::GroupMissing(_) => {
                format!(
                    "pvcreate /dev/DISK && vgcreate {name} /dev/DISK, or mend volumeGroupName in node.cfg"
                )
            }
            _ => "apt-get install lvm2; then see what vgs says".to_owned(),
        };
        Problem::new(error, remedy)
    })?;
    let note = format!("{name}, {} of {} MiB are free", group.free.mib(), group.size.mib());
    Ok(Seen::well(group, note))
}

/// Whether the smallest machine would fit.
fn free_space(node: &config::Node, group: &Group) -> Verdict<()> {
    let swap = node.images().filter_map(|tag| node.image(&tag).ok()).map(|image| image.swap.amount()).min();
    let smallest = GiB::new(1).or_else_do("mend node.cfg")?.amount();
    let needed: Amount =
        [smallest, swap.unwrap_or_default()].into_iter().map(|size| group.rounded(size)).sum();
    if group.free < needed {
        return Err(Problem::new(
            format!("{} MiB are free, and the smallest machine takes {} MiB", group.free.mib(), needed.mib()),
            format!("vgextend {} /dev/DISK, or terminate machines", node.general.volume_group_name),
        ));
    }
    Ok(Seen::well((), format!("enough for {} small machines", group.free.mib() / needed.mib().max(1))))
}

fn said(error: &ExecError) -> String {
    match error {
        ExecError::Failed { stdout, stderr, .. } if stderr.is_empty() => {
            String::from_utf8_lossy(stdout).into_owned()
        }
        ExecError::Failed { stderr, .. } => stderr.clone(),
        other => other.to_string(),
    }
}

fn sudoers() -> Verdict<()> {
    let program =
        exec::find(&["visudo"]).ok_or("there is no sudo on this host").or_else_do("apt-get install sudo")?;
    Run::new(program).arg("-c").run().map_err(|error| {
        Problem::new(
            said(&error),
            "mend the file that it names with: visudo -f FILE (chmod 440 FILE for its rights)",
        )
    })?;
    Ok(Seen::well((), "visudo finds nothing wrong"))
}

/// What `sudo -l -U` says that somebody may do, one rule an entry.
fn allowed(said: &str) -> Vec<String> {
    said.lines()
        .skip_while(|line| !line.contains("may run the following commands"))
        .skip(1)
        .take_while(|line| line.starts_with(' ') || line.starts_with('\t'))
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// A setting that the helper can't work with, and that nothing takes back for it: it has no terminal, and what goes
/// through it is as large as an image. sudo-rs has no such settings.
fn in_the_way(said: &str) -> Option<&'static str> {
    let words = || said.split(|c: char| c == ',' || c.is_whitespace());
    let is_set = |setting: &str| words().any(|word| word == setting);
    ["requiretty", "log_input", "log_output"]
        .into_iter()
        .find(|setting| is_set(setting) && !is_set(&format!("!{setting}")))
}

fn sudo_rule() -> Verdict<()> {
    let install = "make install PARTS=node puts the one rule into /etc/sudoers.d/vgrid";
    let program =
        exec::find(&["sudo"]).ok_or("there is no sudo on this host").or_else_do("apt-get install sudo")?;
    let listed = match Run::new(program).args(["-l", "-U", WEB_USER]).run() {
        Ok(said) => said.text(),
        // With no rule at all some versions fail.
        Err(ExecError::Failed { .. }) => String::new(),
        Err(error) => return Err(Problem::new(error, install)),
    };
    let rules = allowed(&listed);
    let right = format!("(root) NOPASSWD: {HELPER}");
    if !rules.contains(&right) {
        return Err(Problem::new(format!("{WEB_USER} may not run {HELPER}"), install));
    }
    if let Some(setting) = in_the_way(&listed) {
        return Err(Problem::new(
            format!("sudo's {setting} is set for all, the helper included"),
            format!("visudo -f /etc/sudoers.d/vgrid-local: Defaults!{HELPER} !{setting}"),
        ));
    }
    let more: Vec<&str> = rules.iter().filter(|rule| **rule != right).map(String::as_str).collect();
    if more.is_empty() {
        Ok(Seen::well((), format!("{WEB_USER} may run the helper and nothing else")))
    } else {
        Err(Problem::new(
            format!("{WEB_USER} may run more than the helper: {}", more.join(", ")),
            format!("take the other rules for {WEB_USER} out of /etc/sudoers and /etc/sudoers.d"),
        ))
    }
}

/// Checks one of the node's programs: there, root's alone, and a program.
fn program(path: &str) -> Verdict<()> {
    let install = "make install PARTS=node";
    trust::file(Path::new(path)).map_err(|failure| Problem::new(failure.detail, install))?;
    let facts = rights::facts(Path::new(path), install)?;
    let mode = facts.mode() & 0o7777;
    if !facts.is_file() || mode & 0o6000 != 0 || mode & 0o111 != 0o111 {
        return Err(Problem::new(format!("{path} has mode {mode:o}, not 755"), format!("chmod 755 {path}")));
    }
    Ok(Seen::well((), path))
}

/// The whole way from the web server's user to root.
fn helper_answers() -> Verdict<()> {
    let run = rights::as_web_user().args(["/usr/bin/sudo", "-n", HELPER, "info"]).limit(LIMIT);
    let answer = run.run().map_err(|error| {
        Problem::new(said(&error), format!("see what it says: sudo -u {WEB_USER} sudo -n {HELPER} info"))
    })?;
    serde_json::from_slice::<HostState>(&answer.stdout)
        .map_err(|error| format!("{HELPER} info says what this program does not understand: {error}"))
        .or_else_do("make install PARTS=node, all of it of one version")?;
    Ok(Seen::well((), format!("{WEB_USER} gets an answer through sudo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_s_list_is_read() {
        let said = "Matching Defaults entries for www-data on xenhost:\n    env_reset, mail_badpass,\n    use_pty\n\n\
                    Runas and Command-specific defaults for www-data:\n    Defaults!/usr/lib/vgrid/vgrid-helper env_reset\n\n\
                    User www-data may run the following commands on xenhost:\n    \
                    (root) NOPASSWD: /usr/lib/vgrid/vgrid-helper\n    (ALL : ALL) ALL\n";
        assert_eq!(allowed(said), ["(root) NOPASSWD: /usr/lib/vgrid/vgrid-helper", "(ALL : ALL) ALL"]);
        assert_eq!(in_the_way(said), None);
        let logs = said.replace("use_pty", "use_pty, log_output, log_input");
        assert_eq!(in_the_way(&logs), Some("log_input"));
        let mended = logs.replace("helper env_reset", "helper env_reset, !log_input, !log_output");
        assert_eq!(in_the_way(&mended), None);
        assert!(allowed("User www-data is not allowed to run sudo on xenhost.\n").is_empty());
    }

    #[test]
    fn young_features_that_nobody_asked_for_are_named() {
        let made = |options: &str| {
            let program = exec::find(&["mkfs.ext4"]).unwrap();
            let line = format!("{} -q -F {options}", program.display());
            let command: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(TRIAL).unwrap();
            Run::new(program).args(&command[1..]).arg(file.path()).run().unwrap();
            (command, std::fs::read(file.path()).unwrap()[..filesystem::HEAD].to_vec())
        };
        let (command, young) = made("-O metadata_csum,metadata_csum_seed,orphan_file");
        assert!(
            judge_made(&command, "tiny", &young)
                .unwrap()
                .starts_with("tiny: ext4 metadata_csum_seed,orphan_file")
        );
        // The same by mke2fs's own choice, as since e2fsprogs 1.47.
        let plain = ["/sbin/mkfs.ext4".to_owned()];
        let problem = judge_made(&plain, "old, older", &young).unwrap_err();
        assert!(problem.why.contains("metadata_csum_seed (needs GRUB 2.12"), "{problem:?}");
        assert!(problem.remedy.starts_with("add -O ^metadata_csum_seed,^orphan_file to it"), "{problem:?}");
        assert!(problem.remedy.contains("if old, older can read them"), "{problem:?}");
        let (command, safe) = made("-O ^metadata_csum_seed,^orphan_file,^64bit,^metadata_csum");
        assert_eq!(judge_made(&command, "tiny", &safe).unwrap(), "tiny: ext4 extent");
        let none = judge_made(&plain, "tiny", &vec![0; filesystem::HEAD]).unwrap_err();
        assert!(none.why.contains("makes none of ext2"), "{none:?}");
    }

    #[test]
    fn bridges_are_found_where_they_are_named() {
        let text = "# bridge=no\nvif = [ \"bridge=xenbr0\", 'mac=00:16:3e:0:0:1,bridge=br.1,script=x' ]\nvif2=\"bridge=xenbr0\"\n";
        let templates = vec![(PathBuf::from("t"), text.to_owned())];
        let names: Vec<&str> = named_bridges(&templates).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["xenbr0", "br.1"]);
    }
}
