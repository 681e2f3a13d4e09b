//! Pings many machines at once, with fping(8).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::Upkeep;
use crate::model::names::VirtualHost;
use crate::server::registry::vm::Vm;
use crate::server::upkeep::plan::Action;
use crate::system::exec::{ExecError, Run};

/// Its paths on Debian and on Red Hat and its relatives.
const FPING: [&str; 2] = ["/usr/bin/fping", "/usr/sbin/fping"];

/// The time limit for all of them. Fping takes ten seconds for a thousand names.
const LIMIT: Duration = Duration::from_secs(120);

/// Returns the names that answer.
///
/// # Errors
/// [`ExecError`] if fping is missing or can't ping.
pub fn alive(names: &[&VirtualHost]) -> Result<BTreeSet<VirtualHost>, ExecError> {
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    let program = FPING.into_iter().find(|file| std::path::Path::new(file).exists()).unwrap_or(FPING[0]);
    let list = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(
        "
",
    ) + "
";
    // Prints only names that answer (-a -q); two tries (-r), half a second each (-t), one packet a
    // millisecond (-i).
    let ran = Run::new(program)
        .args(["-a", "-q", "-r", "1", "-t", "500", "-i", "1"])
        .input(list.into_bytes())
        .limit(LIMIT)
        .negative_status(1)
        .run();
    let answered = match ran {
        Ok(said) => said.stdout,
        // fping(8): 1 when some did not answer, 2 when some names have no address.
        Err(ExecError::Failed { status, stdout, .. }) if matches!(status.code(), Some(1 | 2)) => stdout,
        Err(error) => return Err(error),
    };
    Ok(String::from_utf8_lossy(&answered).lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Returns what follows from a machine's answer, or its silence.
pub fn actions(vm: &Vm, answered: bool, config: &Upkeep) -> Vec<Action> {
    if answered {
        return if vm.silent > 0 { vec![Action::Answers] } else { Vec::new() };
    }
    let times = vm.silent.saturating_add(1);
    let mut actions = vec![Action::Silent(times)];
    if config.terminate_silent_runs > 0 && times >= config.terminate_silent_runs {
        actions.push(Action::DeleteSilent);
    } else if times >= config.silent_runs {
        actions.push(Action::TellSilent);
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;
    use crate::server::registry::vm::tests::entered;

    #[test]
    fn silence_is_counted_told_and_in_the_end_acted_upon_if_so_configured() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let mut vm = entered(&mut registry, "alice", "node1", "vm1");
        let config = Upkeep { silent_runs: 3, terminate_silent_runs: 5, ..Upkeep::default() };
        let mut actions = |silent: u32, answered| {
            vm.silent = silent;
            actions(&vm, answered, &config)
        };
        assert_eq!(actions(0, true), []);
        assert_eq!(actions(0, false), [Action::Silent(1)]);
        assert_eq!(actions(2, false), [Action::Silent(3), Action::TellSilent]);
        assert_eq!(actions(3, false), [Action::Silent(4), Action::TellSilent]);
        assert_eq!(actions(4, false), [Action::Silent(5), Action::DeleteSilent]);
        assert_eq!(actions(4, true), [Action::Answers]);
    }
}
