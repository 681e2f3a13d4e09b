//! The log for administrators: one line an event, to syslog where there is one, else to a file.
//!
//! What users see never holds what this holds (argv, stderr, addresses), and this never holds passwords
//! or cookies.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::model::names::RequestId;

/// How bad it is; the numbers are those of syslog (RFC 5424, section 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something broke that an administrator must look at.
    Error = 3,
    /// Something was refused or is odd.
    Warning = 4,
    /// Something was done.
    Info = 6,
}

/// The facility `daemon`, shifted to its place in the priority.
const FACILITY: u8 = 3 << 3;

/// The socket of the local syslog.
const SYSLOG: &str = "/dev/log";

struct Logger {
    program: &'static str,
    request: RequestId,
    file: Option<PathBuf>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Says which program this is, which request it serves, and where the log goes when there is no syslog.
/// Only the first call counts.
pub fn start(program: &'static str, request: RequestId, file: Option<&Path>) {
    let file = file.map(Path::to_owned);
    // A second call changes nothing: one process serves one request.
    let _ = LOGGER.set(Logger { program, request, file });
}

/// Writes one event: what happened (`subject.verb`) and the facts about it. ADMIN.md lists all
/// events and fields, and a test compares that list with the source. Never fails: a program must
/// not stop because its log is full, so the last resort is standard error, which is Apache's log.
pub fn event(level: Level, what: &str, facts: &[(&str, &dyn Display)]) {
    let logger = LOGGER.get();
    let mut line = format!("event={what}");
    if let Some(logger) = logger {
        // Writing to a String can't fail.
        let _ = write!(line, " program={} request={}", logger.program, logger.request);
    }
    for (name, value) in facts {
        // Debug form: quotes, and no control character gets through to forge a line.
        let _ = write!(line, " {name}={:?}", value.to_string());
    }
    if to_syslog(level, &line).is_ok() {
        return;
    }
    let file = logger.and_then(|logger| logger.file.as_deref());
    if file.is_none_or(|file| to_file(file, level, &line).is_err()) {
        // Not eprintln!, which panics when nobody reads standard error any more.
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
    // One write, so that lines of several processes don't mix.
    file.write_all(format!("{now} {level:?} vgrid[{}]: {line}\n", std::process::id()).as_bytes())
}
