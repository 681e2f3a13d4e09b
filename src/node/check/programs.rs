//! The node's own programs, and the sudo rule that gives one of them root.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::packages::install;
use super::{LIMIT, error_output};
use crate::check::rights::{self, WEB_USER};
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::node::HELPER;
use crate::node::host::HostState;
use crate::node::trust;
use crate::system::exec::{self, ExecError, Run};

/// Checks one of the node's programs: it must exist, be writable only by root, and be executable.
pub fn installed(path: &str) -> Verdict<()> {
    let again = "make install PARTS=node";
    trust::file(Path::new(path)).map_err(|error| Problem::new(error, again))?;
    let facts = rights::facts(Path::new(path), again)?;
    let mode = facts.mode() & 0o7777;
    if !facts.is_file() || mode & 0o6000 != 0 || mode & 0o111 != 0o111 {
        return Err(Problem::new(format!("{path} has mode {mode:o}, not 755"), format!("chmod 755 {path}")));
    }
    Ok(Finding::passed((), path))
}

/// Checks that sudo's configuration is valid.
pub fn sudoers() -> Verdict<()> {
    let program = exec::find(&["visudo"])
        .ok_or("there is no sudo on this host")
        .with_remedy(install("sudo", "sudo"))?;
    Run::new(program).arg("-c").run().map_err(|error| {
        Problem::new(
            error_output(&error),
            "mend the file that it names with: visudo -f FILE (chmod 440 FILE for its rights)",
        )
    })?;
    Ok(Finding::passed((), "visudo finds nothing wrong"))
}

/// Checks that the web server's user may run the helper through sudo, and nothing else.
pub fn sudo_rule() -> Verdict<()> {
    let again = "make install PARTS=node puts the one rule into /etc/sudoers.d/vgrid";
    let program =
        exec::find(&["sudo"]).ok_or("there is no sudo on this host").with_remedy(install("sudo", "sudo"))?;
    let listed = match Run::new(program).args(["-l", "-U", WEB_USER]).run() {
        Ok(output) => output.text(),
        // Some versions fail if there is no rule at all.
        Err(ExecError::Failed { .. }) => String::new(),
        Err(error) => return Err(Problem::new(error, again)),
    };
    let rules = allowed(&listed);
    let right = format!("(root) NOPASSWD: {HELPER}");
    if !rules.contains(&right) {
        return Err(Problem::new(format!("{WEB_USER} may not run {HELPER}"), again));
    }
    if let Some(setting) = in_the_way(&listed) {
        return Err(Problem::new(
            format!("sudo's {setting} is set for all, the helper included"),
            format!("visudo -f /etc/sudoers.d/vgrid-local: Defaults!{HELPER} !{setting}"),
        ));
    }
    let more: Vec<&str> = rules.iter().filter(|rule| **rule != right).map(String::as_str).collect();
    if more.is_empty() {
        Ok(Finding::passed((), format!("{WEB_USER} may run the helper and nothing else")))
    } else {
        Err(Problem::new(
            format!("{WEB_USER} may run more than the helper: {}", more.join(", ")),
            format!("take the other rules for {WEB_USER} out of /etc/sudoers and /etc/sudoers.d"),
        ))
    }
}

/// Tests the whole path from the web server's user to root.
pub fn helper_answers() -> Verdict<()> {
    let run = rights::as_web_user().args(["/usr/bin/sudo", "-n", HELPER, "info"]).limit(LIMIT);
    let answer = run.run().map_err(|error| {
        Problem::new(
            error_output(&error),
            format!("see what it says: sudo -u {WEB_USER} sudo -n {HELPER} info"),
        )
    })?;
    serde_json::from_slice::<HostState>(&answer.stdout)
        .map_err(|error| format!("{HELPER} info says what this program does not understand: {error}"))
        .with_remedy("make install PARTS=node, all of it of one version")?;
    Ok(Finding::passed((), format!("{WEB_USER} gets an answer through sudo")))
}

/// Parses the rules from the output of `sudo -l -U`.
fn allowed(output: &str) -> Vec<String> {
    output
        .lines()
        .skip_while(|line| !line.contains("may run the following commands"))
        .skip(1)
        .take_while(|line| line.starts_with(' ') || line.starts_with('\t'))
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

/// Returns a setting that would break the helper and is not revoked for it: the helper has no
/// terminal, and whole images pass through it. sudo-rs has no such settings.
fn in_the_way(output: &str) -> Option<&'static str> {
    let words = || output.split(|c: char| c == ',' || c.is_whitespace());
    let is_set = |setting: &str| words().any(|word| word == setting);
    ["requiretty", "log_input", "log_output"]
        .into_iter()
        .find(|setting| is_set(setting) && !is_set(&format!("!{setting}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_sudo_is_parsed() {
        let output = "Matching Defaults entries for www-data on xenhost:\n    env_reset, mail_badpass,\n    use_pty\n\n\
                    Runas and Command-specific defaults for www-data:\n    Defaults!/usr/lib/vgrid/vgrid-helper env_reset\n\n\
                    User www-data may run the following commands on xenhost:\n    \
                    (root) NOPASSWD: /usr/lib/vgrid/vgrid-helper\n    (ALL : ALL) ALL\n";
        assert_eq!(allowed(output), ["(root) NOPASSWD: /usr/lib/vgrid/vgrid-helper", "(ALL : ALL) ALL"]);
        assert_eq!(in_the_way(output), None);
        let logs = output.replace("use_pty", "use_pty, log_output, log_input");
        assert_eq!(in_the_way(&logs), Some("log_input"));
        let fixed = logs.replace("helper env_reset", "helper env_reset, !log_input, !log_output");
        assert_eq!(in_the_way(&fixed), None);
        assert!(allowed("User www-data is not allowed to run sudo on xenhost.\n").is_empty());
    }
}
