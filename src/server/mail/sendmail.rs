//! Through the program `sendmail`, which each mail server of Unix has.

use std::path::Path;
use std::time::Duration;

use crate::model::fault::detail;
use crate::model::mail::Address;
use crate::server::mail::letter::{OnItsWay, Trouble};
use crate::system::exec::Run;

/// The time it has for one mail.
const LIMIT: Duration = Duration::from_secs(60);

/// Hands a mail over.
pub(super) fn deliver(program: &Path, sender: &Address, mail: &OnItsWay) -> Result<(), Trouble> {
    // A program of Unix reads lines that end as Unix ends them.
    let text: Vec<u8> = mail.bytes.iter().copied().filter(|byte| *byte != b'\r').collect();
    // -i: a dot alone is no end. No -t: who gets it is not left to the headers.
    let handed = Run::new(program)
        .args(["-i", "-f", &sender.to_string(), "--", &mail.recipient.to_string()])
        .limit(LIMIT)
        .input(text)
        .run();
    let Err(error) = handed else { return Ok(()) };
    let why = detail(&error.to_string());
    // <sysexits.h>
    Err(match error.code() {
        // EX_DATAERR, EX_NOUSER, EX_NOHOST
        Some(65 | 67 | 68) => Trouble::Refused(why),
        // EX_TEMPFAIL
        Some(75) => Trouble::Later(why),
        _ => Trouble::Unreachable(why),
    })
}

/// Whether there is such a program.
pub(super) fn answers(program: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::metadata(program) {
        Ok(facts) if facts.is_file() && facts.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(format!("{} is no program", program.display())),
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}
