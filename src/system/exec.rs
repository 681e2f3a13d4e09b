//! The only place that starts a process and waits for it.
//!
//! Arguments are lists, never shell strings; the environment is empty but for `PATH`, `HOME` and
//! `LC_ALL=C`; every run has a time limit, leaves a line in the log, and ends in a typed result.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use thiserror::Error;

use super::detach::PATH;
use super::log::{self, Level};

/// Output beyond this many bytes is read and forgotten.
const KEEP: usize = 1 << 20;

/// A program to run.
#[derive(Debug)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    limit: Duration,
    input: Input,
    output: Output,
    /// The exit status, other than 0, that is an answer and no failure.
    answer: Option<i32>,
}

#[derive(Debug)]
enum Input {
    Nothing,
    Bytes(Vec<u8>),
    Inherit,
}

/// What becomes of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// It is collected.
    Collect,
    /// It is this process's own.
    Inherit,
    /// It is read by the work that goes along with the run.
    HandOver,
}

/// What a program said that ended with status 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its standard output, up to one MiB.
    pub stdout: Vec<u8>,
    /// Its standard error, as text, up to one MiB.
    pub stderr: String,
}

impl Said {
    /// Standard output as text; what isn't UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Why a run gave no result. `Display` is for the log; users get a [`crate::model::fault::Fault`].
#[derive(Debug, Error)]
pub enum ExecError {
    /// It could not be started.
    #[error("{argv}: {}", self.why())]
    NotStarted {
        /// The command.
        argv: String,
        /// Why; `NotFound` when there is no such program.
        source: io::Error,
    },
    /// It ended with another status than 0, or by a signal.
    #[error("{argv}: {}", self.why())]
    Failed {
        /// The command.
        argv: String,
        /// How it ended.
        status: ExitStatus,
        /// Its standard output.
        stdout: Vec<u8>,
        /// Its standard error.
        stderr: String,
    },
    /// It ran too long and was killed with all of its process group.
    #[error("{argv}: {}", self.why())]
    TimedOut {
        /// The command.
        argv: String,
        /// The time it had.
        limit: Duration,
        /// Its standard error so far.
        stderr: String,
    },
    /// What it should read or what it said got lost.
    #[error("{argv}: {}", self.why())]
    Pipe {
        /// The command.
        argv: String,
        /// Why.
        source: io::Error,
    },
}

impl ExecError {
    /// The reason alone: what `Display` says after the command.
    fn why(&self) -> String {
        match self {
            Self::NotStarted { source, .. } | Self::Pipe { source, .. } => source.to_string(),
            Self::Failed { status, stderr, .. } => format!("{status}: {stderr}"),
            Self::TimedOut { limit, stderr, .. } => format!("killed after {} s: {stderr}", limit.as_secs()),
        }
    }

    /// The exit status as a number, if the program ended by itself.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Failed { status, .. } => status.code(),
            _ => None,
        }
    }

    /// What the program said on standard error.
    pub fn stderr(&self) -> &str {
        match self {
            Self::Failed { stderr, .. } | Self::TimedOut { stderr, .. } => stderr,
            Self::NotStarted { .. } | Self::Pipe { .. } => "",
        }
    }

    /// Whether there is no such program.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NotStarted { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Run {
    /// A program, by absolute path (or by a name that is looked for in [`PATH`] only), that may take a minute.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            limit: Duration::from_secs(60),
            input: Input::Nothing,
            output: Output::Collect,
            answer: None,
        }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The time after which it is killed.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// An exit status that says no, as that of grep(1) does, and is not logged as a failure. It still is an [`ExecError`].
    pub fn says_no_by(mut self, status: i32) -> Self {
        self.answer = Some(status);
        self
    }

    /// What it reads from standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// It reads this process's own standard input.
    pub fn inherit_input(mut self) -> Self {
        self.input = Input::Inherit;
        self
    }

    /// It writes to this process's own standard output, and so is known to have said nothing there.
    pub fn inherit_output(mut self) -> Self {
        self.output = Output::Inherit;
        self
    }

    /// The command as a line for the log.
    fn argv(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            line.push(' ');
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || c == '"' || c.is_control()) {
                line.push_str(&format!("{arg:?}"));
            } else {
                line.push_str(&arg);
            }
        }
        line
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Result<Said, ExecError> {
        match std::mem::replace(&mut self.input, Input::Nothing) {
            Input::Nothing => self.go(Stdio::null(), |_| ()).1,
            Input::Inherit => self.go(Stdio::inherit(), |_| ()).1,
            Input::Bytes(bytes) => {
                // A program that ends without reading all of it is judged by its exit status.
                let write = |child: &mut Child| child.stdin.take().map(|mut stdin| stdin.write_all(&bytes));
                self.go(Stdio::piped(), write).1
            }
        }
    }

    /// Runs it while `feed` writes to its standard input, in this thread. Returns what `feed` made of
    /// it and how the program ended; when both failed, the program's end usually is the cause.
    pub fn feed<T>(
        self,
        feed: impl FnOnce(&mut ChildStdin) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Result<Said, ExecError>) {
        let (fed, result) =
            self.go(Stdio::piped(), |child| child.stdin.take().map(|mut stdin| feed(&mut stdin)));
        (fed.flatten(), result)
    }

    /// Runs it while `take` reads what it writes to its standard output, in this thread; what `take` leaves
    /// unread the program can't write. Returns what `take` made of it and how the program ended.
    pub fn drain<T>(
        mut self,
        take: impl FnOnce(&mut ChildStdout) -> T,
    ) -> (Option<T>, Result<Said, ExecError>) {
        self.output = Output::HandOver;
        let (taken, result) =
            self.go(Stdio::null(), |child| child.stdout.take().map(|mut pipe| take(&mut pipe)));
        (taken.flatten(), result)
    }

    fn go<T>(
        &self,
        stdin: Stdio,
        work: impl FnOnce(&mut Child) -> T,
    ) -> (Option<T>, Result<Said, ExecError>) {
        let argv = self.argv();
        let began = Instant::now();
        let started = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs([("PATH", PATH), ("HOME", "/"), ("LC_ALL", "C")])
            .current_dir("/")
            .stdin(stdin)
            .stdout(if self.output == Output::Inherit { Stdio::inherit() } else { Stdio::piped() })
            .stderr(Stdio::piped())
            // A group of its own: its children can be killed with it.
            .process_group(0)
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(source) => {
                log::event(Level::Error, "exec.failed", &[("argv", &argv), ("why", &source)]);
                return (None, Err(ExecError::NotStarted { argv, source }));
            }
        };
        let watched = Watched::new(&mut child, self.limit, self.output);
        let worked = work(&mut child);
        let result = watched.finish(child, argv.clone());
        let milliseconds = began.elapsed().as_millis();
        match &result {
            Ok(_) => log::event(Level::Info, "exec.done", &[("argv", &argv), ("ms", &milliseconds)]),
            Err(error) if error.code().is_some() && error.code() == self.answer => {
                let exit = error.code().unwrap_or_default();
                log::event(
                    Level::Info,
                    "exec.done",
                    &[("argv", &argv), ("exit", &exit), ("ms", &milliseconds)],
                );
            }
            Err(error) => {
                log::event(
                    Level::Warning,
                    "exec.failed",
                    &[("argv", &argv), ("why", &error.why()), ("ms", &milliseconds)],
                );
            }
        }
        (Some(worked), result)
    }
}

/// A running program whose output is being read and whose time is being counted.
struct Watched {
    /// Absent when somebody else reads it.
    stdout: Option<Receiver<io::Result<Vec<u8>>>>,
    stderr: Receiver<io::Result<Vec<u8>>>,
    /// Ends the guard when dropped.
    done: std::sync::mpsc::Sender<()>,
    /// Says, once, that the time was over.
    killed: Receiver<()>,
    limit: Duration,
}

impl Watched {
    fn new(child: &mut Child, limit: Duration, output: Output) -> Self {
        let stdout = (output == Output::Collect).then(|| collect(child.stdout.take()));
        let stderr = collect(child.stderr.take());
        let (done, ended) = channel::<()>();
        let (kill, killed) = channel::<()>();
        let group = Pid::from_raw(child.id().cast_signed());
        // The guard kills by group while the child has not been waited for, so the number is still its own.
        std::thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // Both can only fail when there is nobody left to tell.
                let _ = kill.send(());
                let _ = killpg(group, Signal::SIGKILL);
            }
        });
        Self { stdout, stderr, done, killed, limit }
    }

    fn finish(self, mut child: Child, argv: String) -> Result<Said, ExecError> {
        let gone = |_| io::Error::other("the reader ended");
        // What a program that ran as root was killed for may be out of our reach (EPERM); then its output does
        // not end, and waiting for it has to.
        let patience = self.limit + Duration::from_secs(5);
        let stdout = self.stdout.as_ref().map(|stdout| stdout.recv_timeout(patience));
        // What is read to its end ends with the program; where nothing is, it may have long to go.
        let patience = if stdout.is_some() { Duration::from_secs(5) } else { patience };
        let stderr = self.stderr.recv_timeout(patience).map_err(gone).and_then(|r| r);
        let timed_out = self.killed.try_recv().is_ok();
        let stderr_text = |stderr: io::Result<Vec<u8>>| {
            stderr.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        if timed_out {
            drop(self.done);
            // Reaped if it is dead; if not, init will.
            let _ = child.try_wait();
            let stderr = stderr_text(stderr).unwrap_or_default();
            return Err(ExecError::TimedOut { argv, limit: self.limit, stderr });
        }
        let stdout = stdout.unwrap_or(Ok(Ok(Vec::new()))).map_err(gone).and_then(|r| r);
        let status = child.wait();
        drop(self.done);
        let pipe = |source| ExecError::Pipe { argv: argv.clone(), source };
        let (status, stdout, stderr) =
            (status.map_err(pipe)?, stdout.map_err(pipe)?, stderr_text(stderr).map_err(pipe)?);
        if status.success() {
            Ok(Said { stdout, stderr })
        } else {
            Err(ExecError::Failed { argv, status, stdout, stderr })
        }
    }
}

/// Reads a stream to its end in a thread of its own, so that a full pipe never blocks the program.
fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<io::Result<Vec<u8>>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let result = stream.map_or(Ok(()), |mut stream| {
            (&mut stream).take(KEEP as u64).read_to_end(&mut kept)?;
            io::copy(&mut stream, &mut io::sink()).map(|_| ())
        });
        // Nobody waits for it after a time-out.
        let _ = send.send(result.map(|()| kept));
    });
    receive
}

/// The first of these programs that exists, looked for in the folders of [`PATH`].
pub fn find(names: &[&str]) -> Option<std::path::PathBuf> {
    names.iter().find_map(|name| {
        PATH.split(':')
            .map(|dir| std::path::Path::new(dir).join(OsStr::new(name)))
            .find(|path| path.is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_without_our_environment() {
        let said = Run::new("/usr/bin/env").run().unwrap();
        let mut lines: Vec<String> = said.text().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["HOME=/", "LC_ALL=C", &format!("PATH={PATH}")]);
    }

    #[test]
    fn input_is_fed_and_output_read_at_once() {
        let big = vec![b'x'; 1 << 19];
        assert_eq!(Run::new("/bin/cat").input(big.clone()).run().unwrap().stdout, big);
    }

    #[test]
    fn a_failure_has_status_and_words() {
        let error = Run::new("/bin/sh").args(["-c", "echo no >&2; exit 3"]).run().unwrap_err();
        assert_eq!((error.code(), error.stderr()), (Some(3), "no"));
        assert!(Run::new("/nonexistent").run().unwrap_err().is_missing());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let began = Instant::now();
        let error = Run::new("/bin/sh")
            .args(["-c", "sleep 60 & sleep 60; true"])
            .limit(Duration::from_millis(200))
            .run()
            .unwrap_err();
        assert!(matches!(error, ExecError::TimedOut { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn output_is_drained_while_the_program_runs_and_may_be_left_unread() {
        let line = ["-c", "head -c 3000000 /dev/zero; echo yes >&2"];
        let (read, said) = Run::new("/bin/sh").args(line).drain(|pipe| io::copy(pipe, &mut io::sink()));
        assert_eq!((read.unwrap().unwrap(), said.unwrap().stderr), (3_000_000, "yes".to_owned()));
        // Who is not read is not waited for: it ends by SIGPIPE.
        let (_, said) = Run::new("/usr/bin/yes").limit(Duration::from_secs(20)).drain(|_| ());
        assert!(matches!(said, Err(ExecError::Failed { .. })), "{said:?}");
        let (none, said) = Run::new("/nonexistent").drain(|_| ());
        assert!(none.is_none() && said.unwrap_err().is_missing());
    }

    #[test]
    fn a_program_that_says_nothing_on_its_standard_error_for_long_is_waited_for() {
        let (_, said) =
            Run::new("/bin/sh").args(["-c", "exec >&-; sleep 6; echo late >&2; exit 3"]).drain(|_| ());
        let error = said.unwrap_err();
        assert_eq!((error.code(), error.stderr()), (Some(3), "late"));
    }

    #[test]
    fn a_program_that_does_not_read_is_judged_by_its_status() {
        Run::new("/bin/true").input(vec![0; 1 << 20]).run().unwrap();
    }
}
