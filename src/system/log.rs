//! The administrators' log: one line per event, to syslog if available, otherwise to a file.
//!
//! Its details (argv, stderr, addresses) are never shown to users. Passwords and cookies are never
//! logged.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::model::names::RequestId;

/// The severity; the numbers are those of syslog (RFC 5424, section 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A failure that an administrator must look into.
    Error = 3,
    /// Something was refused or is unusual.
    Warning = 4,
    /// A normal event.
    Info = 6,
}

/// The facility `daemon`, shifted to its position in the priority.
const FACILITY: u8 = 3 << 3;

/// The socket of the local syslog.
const SYSLOG: &str = "/dev/log";

struct Logger {
    program: &'static str,
    request: RequestId,
    file: Option<PathBuf>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Sets the program's name, the request that it serves, and the log file to use without syslog.
/// Only the first call has an effect.
pub fn start(program: &'static str, request: RequestId, file: Option<&Path>) {
    let file = file.map(Path::to_owned);
    let _ = LOGGER.set(Logger { program, request, file });
}

/// Logs an event with its details. Never fails: a program must not stop because its log is full.
/// The last resort is standard error, which ends up in Apache's log.
pub fn event(level: Level, what: &str, facts: &[(&str, &dyn Display)]) {
    let logger = LOGGER.get();
    let mut line = format!("event={what}");
    if let Some(logger) = logger {
        // Writing to a String can't fail.
        let _ = write!(line, " program={} request={}", logger.program, logger.request);
    }
    for (name, value) in facts {
        // Debug format: it quotes the value and escapes control characters, so no value can forge a
        // line.
        let _ = write!(line, " {name}={:?}", value.to_string());
    }
    if to_syslog(level, &line).is_ok() {
        return;
    }
    let file = logger.and_then(|logger| logger.file.as_deref());
    if file.is_none_or(|file| to_file(file, level, &line).is_err()) {
        // Not eprintln!, which panics if standard error is closed.
        let _ = writeln!(std::io::stderr(), "vgrid: {line}");
    }
}

fn to_syslog(level: Level, line: &str) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let message = format!("<{}>vgrid[{}]: {line}", FACILITY | level as u8, std::process::id());
    socket.send_to(message.as_bytes(), SYSLOG).map(|_| ())
}

fn to_file(file: &Path, level: Level, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).mode(0o640).open(file)?;
    let now = crate::system::clock::now().rfc3339();
    // A single write, so that lines of several processes don't interleave.
    file.write_all(format!("{now} {level:?} vgrid[{}]: {line}\n", std::process::id()).as_bytes())
}
