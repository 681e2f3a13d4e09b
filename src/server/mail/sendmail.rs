//! Delivery through the program `sendmail`, which every mail server on Unix provides.

use std::path::Path;
use std::time::Duration;

use crate::model::fault::detail;
use crate::model::mail::Address;
use crate::server::mail::message::{DeliveryFailure, OnItsWay};
use crate::system::exec::Run;

/// The time limit for one mail.
const LIMIT: Duration = Duration::from_secs(60);

/// Hands over a mail.
pub(super) fn deliver(program: &Path, sender: &Address, mail: &OnItsWay) -> Result<(), DeliveryFailure> {
    // A Unix program expects Unix line ends.
    let text: Vec<u8> = mail.bytes.iter().copied().filter(|byte| *byte != b'\r').collect();
    // -i: a line with a single dot does not end the mail. No -t: the headers do not choose the
    // recipient.
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
        Some(65 | 67 | 68) => DeliveryFailure::Refused(why),
        // EX_TEMPFAIL
        Some(75) => DeliveryFailure::Later(why),
        _ => DeliveryFailure::Unreachable(why),
    })
}

/// Checks that the program exists and is executable.
pub(super) fn answers(program: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::metadata(program) {
        Ok(facts) if facts.is_file() && facts.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(format!("{} is no program", program.display())),
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}
