//! Checks that mail can be written and sent.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::check::rights::{self, WEB_USER};
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::config;
use crate::config::mail::{MailServer, Transport};
use crate::server::mail;

/// Checks that the templates are there and that the mail server would accept mail.
pub fn leaves(server: &config::Server, is_root: bool) -> Verdict<()> {
    let Some(outlet) = &server.mail.outlet else {
        return Ok(Finding::passed((), "none is sent ([Mail] transport in server.cfg)"));
    };
    mail::check_templates(server)
        .with_remedy("make install PARTS=server, or mend templateDirectory in server.cfg")?;
    if let Transport::Smtp(MailServer { login: Some(login), .. }) = &outlet.transport {
        only_web_user_reads(&login.password_file, is_root)?;
    }
    let (whither, remedy) = match &outlet.transport {
        Transport::Smtp(mail) => (
            format!("{} port {}", mail.host, mail.port),
            "start the mail server, open the way to it, have it take mail from this machine, or mend [Mail] in \
             server.cfg: server, encryption, caFile, user, passwordFile, sender",
        ),
        Transport::Sendmail(program) => (
            program.display().to_string(),
            "install a mail server such as postfix, or mend sendmail in [Mail] of server.cfg",
        ),
    };
    let recipient = server.administrators_mail().first().copied();
    mail::answers(outlet, recipient).map_err(|why| format!("{whither}: {why}")).with_remedy(remedy)?;
    Ok(Finding::passed((), format!("{whither} takes it")))
}

/// Checks that a secret can be read by the web server's user, but not by everybody.
fn only_web_user_reads(file: &Path, is_root: bool) -> Result<(), Problem> {
    let remedy = format!("chown root:{WEB_USER} {0} && chmod 640 {0}", file.display());
    let facts = std::fs::metadata(file)
        .map_err(|error| format!("{}: {}", file.display(), rights::describe(&error)))
        .with_remedy(&remedy)?;
    if facts.permissions().mode() & 0o007 != 0 {
        return Err(Problem::new(format!("{} can be read by everybody", file.display()), remedy));
    }
    if is_root && !rights::web_user_reads(file) {
        return Err(Problem::new(format!("{WEB_USER} can't read {}", file.display()), remedy));
    }
    Ok(())
}
