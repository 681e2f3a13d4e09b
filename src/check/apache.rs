//! Apache: its configuration, its modules, and its responses to a stranger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Checks, Fact, Finding, Problem, WithRemedy as _};
use crate::model::names::RequestId;
use crate::model::sign::Recipient;
use crate::remote::{Answer, Client};
use crate::system::exec::{self, ExecError, Run};

/// The time limit for one response. The program may be running the helper meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Apache's configuration files.
pub type Includes = Vec<PathBuf>;

fn apachectl(args: &[&str]) -> Result<String, Problem> {
    let install = "apt-get install apache2";
    let program = exec::find(&["apachectl", "apache2ctl", "httpd"])
        .ok_or("there is no Apache on this host")
        .with_remedy(install)?;
    Run::new(program).args(args.iter().copied()).run().map(|output| output.text()).map_err(|error| {
        let why = match &error {
            // It begins with the file and the line.
            ExecError::Failed { stderr, .. } if !stderr.is_empty() => {
                stderr.lines().filter(|line| !line.starts_with("AH00558")).collect::<Vec<_>>().join("\n")
            }
            other => other.to_string(),
        };
        Problem::new(
            why,
            "mend the line that it names, then: apachectl configtest && systemctl reload apache2",
        )
    })
}

/// Checks whatever is common to the server and the node.
pub fn run(checks: &mut Checks) -> Fact<Includes> {
    let includes = checks.check_as_root("Apache's configuration", Fact::Known(()), |()| {
        let output = apachectl(&["-t", "-D", "DUMP_INCLUDES"])?;
        // `    (50) /etc/apache2/conf-enabled/vgrid-node.conf`
        let files: Includes = output
            .lines()
            .filter_map(|line| line.trim().strip_prefix('(')?.split_once(") "))
            .map(|(_, file)| PathBuf::from(file.trim()))
            .collect();
        Ok(Finding::passed(files, "syntax is right"))
    });
    checks.check("Apache's modules", includes.as_ref(), |_| {
        let output = apachectl(&["-M"])?;
        let has = |module: &str| output.split_whitespace().any(|word| word == module);
        if !has("cgid_module") && !has("cgi_module") {
            return Err(Problem::new(
                "neither mod_cgid nor mod_cgi is loaded, so no program is run",
                "a2enmod cgid && systemctl restart apache2",
            ));
        }
        if !has("alias_module") {
            return Err(Problem::new(
                "mod_alias is not loaded",
                "a2enmod alias && systemctl restart apache2",
            ));
        }
        Ok(Finding::passed((), if has("cgid_module") { "cgid, alias" } else { "cgi, alias" }))
    });
    includes
}

/// Checks that some configuration file has the `ScriptAlias` for a path.
pub fn site(checks: &mut Checks, name: &'static str, includes: &Fact<Includes>, conf: &str, path: &str) {
    checks.check(name, includes.as_ref(), |files| {
        let has = |file: &&PathBuf| {
            std::fs::read_to_string(file).is_ok_and(|text| {
                text.lines().any(|line| {
                    let mut words = line.split_whitespace().map(|word| word.trim_matches('"'));
                    words.next().is_some_and(|word| word.eq_ignore_ascii_case("ScriptAlias"))
                        && words.next() == Some(path)
                })
            })
        };
        match files.iter().find(has) {
            Some(file) => Ok(Finding::passed((), file.display())),
            None => Err(Problem::new(
                format!("nothing in Apache's configuration is for {path}"),
                format!("a2enconf {conf} && systemctl reload apache2"),
            )),
        }
    });
}

/// A client for this host's own Apache.
#[derive(Debug)]
pub struct Own<'a> {
    url: &'a str,
    client: Client<'a>,
}

impl<'a> Own<'a> {
    /// Creates a client for `url`, which has no path. For https, the certificate must be signed by
    /// one in `ca_file`.
    pub fn new(url: &'a str, request: &'a RequestId, ca_file: &Path) -> Self {
        Self { url: url.trim_end_matches('/'), client: Client::stranger(request, PATIENCE, ca_file) }
    }

    /// Requests a program as a stranger would and returns the response.
    pub fn ask(&self, program: &str, post: bool) -> Result<Answer, Problem> {
        let url = format!("{}/cgi-bin/{program}", self.url);
        let answer = if post {
            self.client.post(&Recipient::Server, &url, &())
        } else {
            self.client.get(&Recipient::Server, &url)
        };
        let answer = answer.map_err(|error| {
            Problem::new(
                format!("{url}: {error}"),
                "systemctl start apache2; if it answers elsewhere: vgrid-check --own-url https://NAME",
            )
        })?;
        match answer.status {
            404 => Err(Problem::new(
                format!("{url}: HTTP 404, Apache knows no such program"),
                "a2disconf serve-cgi-bin && systemctl reload apache2; is it installed? (make install)",
            )),
            500..=599 => Err(Problem::new(
                format!(
                    "{url}: HTTP {}{}",
                    answer.status,
                    message(&answer).map(|m| format!(", {m}")).unwrap_or_default()
                ),
                "read /var/log/apache2/error.log and: journalctl -t vgrid",
            )),
            _ => Ok(answer),
        }
    }

    /// Checks that a program that is internal to vGrid refuses a stranger by itself.
    pub fn must_refuse(&self, program: &str, post: bool) -> Result<(), Problem> {
        let answer = self.ask(program, post)?;
        match (answer.status, message(&answer)) {
            (403, Some(text)) if text.starts_with("Refused") => Ok(()),
            (301..=308, _) => Err(Problem::new(
                format!("{}/cgi-bin/{program} is redirected", self.url),
                "vgrid-check --own-url https://NAME, and say https in nodeURL and serverURL",
            )),
            (status, text) => Err(Problem::new(
                format!(
                    "{}/cgi-bin/{program}: HTTP {status}, {}, where vGrid would refuse",
                    self.url,
                    text.unwrap_or_else(|| "not from vGrid".to_owned())
                ),
                "a2enmod cgid, see the Directory block of vgrid's configuration, and: systemctl restart apache2",
            )),
        }
    }
}

/// Returns the message of one of vGrid's own error responses.
pub fn message(answer: &Answer) -> Option<String> {
    let json: serde_json::Value = answer.json().ok()?;
    Some(crate::model::fault::detail(json.pointer("/error/message")?.as_str()?))
}
