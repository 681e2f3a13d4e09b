//! The console logs of machines.

use crate::check::rights;
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::config;
use crate::node::helper::consoles::{MOST, taken};
use crate::node::trust;
use crate::system::exec;

/// The size above which a console log is too large, in bytes: the output of one guest within a few
/// minutes.
const LARGE_LOG: u64 = 20 * MOST;

/// The logrotate configuration, which limits console logs if this host receives no `info` requests.
const LOGROTATE: &str = "/etc/logrotate.d/vgrid";

/// Checks that the toolstack logs consoles where vGrid looks for them.
pub fn logged(node: &config::Node) -> Verdict<()> {
    let folder = &node.general.console_log_directory;
    trust::directory(folder).map_err(|error| {
        Problem::new(error, format!("install -d -o root -g root -m 755 {}", folder.display()))
    })?;
    let configure =
        "XENCONSOLED_ARGS=\"--log=guest\" in /etc/default/xen, then: systemctl restart xen, or reboot";
    let daemon = processes()
        .into_iter()
        .find(|words| words.first().is_some_and(|program| program.ends_with("xenconsoled")))
        .ok_or("xenconsoled does not run")
        .with_remedy(configure)?;
    let logs = daemon.iter().any(|word| matches!(word.as_str(), "--log=guest" | "--log=all"));
    if !logs {
        return Err(Problem::new("xenconsoled runs without --log=guest, so no console is logged", configure));
    }
    Ok(Finding::passed((), folder.display()))
}

/// Checks that console logs do not grow too large.
pub fn kept_short(node: &config::Node) -> Verdict<()> {
    let folder = &node.general.console_log_directory;
    let mut total = 0;
    for entry in std::fs::read_dir(folder).with_remedy(format!("ls -ld {}", folder.display()))? {
        let path = entry.with_remedy("run it again")?.path();
        // It may just have been removed together with its machine.
        let Ok(facts) = std::fs::symlink_metadata(&path) else { continue };
        let taken = taken(&facts);
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
        .map_err(|error| format!("{LOGROTATE}: {}", rights::describe(&error)))
        .with_remedy("make install puts it there")?;
    let rotates = exec::find(&["logrotate"]).is_some();
    let rotated = if rotates { "" } else { "; there is no logrotate on this host, so only vGrid cuts them" };
    Ok(Finding::passed((), format!("{} MiB in {}{rotated}", total.div_ceil(1 << 20), folder.display())))
}

/// Lists the command lines of all processes.
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
