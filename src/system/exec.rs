//! The only module that starts a process and waits for it.
//!
//! Arguments are lists, never shell strings. The environment is empty except for `PATH`, `HOME` and
//! `LC_ALL=C`. Every run has a time limit, is logged, and ends with a typed result.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::File;
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

/// The maximum number of bytes of output that are kept; the rest is read and discarded.
const KEEP: usize = 1 << 20;

/// A program to run.
#[derive(Debug)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    limit: Duration,
    input: Input,
    output: Output,
    /// A nonzero exit status that is a valid answer and not a failure.
    negative_status: Option<i32>,
}

#[derive(Debug)]
enum Input {
    Nothing,
    Bytes(Vec<u8>),
    File(File),
    Inherit,
}

/// What happens to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// Collected.
    Collect,
    /// Inherited from this process.
    Inherit,
    /// Read by the function that runs alongside the program.
    HandOver,
}

/// The output of a program that exited with status 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramOutput {
    /// Standard output, up to one MiB.
    pub stdout: Vec<u8>,
    /// Standard error as text, up to one MiB.
    pub stderr: String,
}

impl ProgramOutput {
    /// Returns standard output as text, with invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Why a run failed. `Display` is for the log; users get a [`crate::model::fault::Fault`].
#[derive(Debug, Error)]
pub enum ExecError {
    /// The program could not be started.
    #[error("{argv}: {}", self.why())]
    NotStarted {
        /// The command.
        argv: String,
        /// The cause; its kind is `NotFound` if there is no such program.
        source: io::Error,
    },
    /// The program exited with a nonzero status or was killed by a signal.
    #[error("{argv}: {}", self.why())]
    Failed {
        /// The command.
        argv: String,
        /// The exit status.
        status: ExitStatus,
        /// Standard output.
        stdout: Vec<u8>,
        /// Standard error.
        stderr: String,
    },
    /// The program exceeded its time limit and was killed with its whole process group.
    #[error("{argv}: {}", self.why())]
    TimedOut {
        /// The command.
        argv: String,
        /// The time limit.
        limit: Duration,
        /// Standard error so far.
        stderr: String,
    },
    /// Reading the program's output failed.
    #[error("{argv}: {}", self.why())]
    Pipe {
        /// The command.
        argv: String,
        /// The cause.
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

    /// Returns what the program said of its failure, or if it said nothing, how it ended: a program
    /// that a signal ends says nothing.
    pub fn said(&self) -> Cow<'_, str> {
        match self {
            Self::Failed { status, stderr, .. } if stderr.trim().is_empty() => status.to_string().into(),
            Self::TimedOut { stderr, .. } if stderr.trim().is_empty() => self.why().into(),
            Self::Failed { stderr, .. } | Self::TimedOut { stderr, .. } => stderr.into(),
            Self::NotStarted { source, .. } | Self::Pipe { source, .. } => source.to_string().into(),
        }
    }

    /// Returns the program's standard error.
    pub fn stderr(&self) -> &str {
        match self {
            Self::Failed { stderr, .. } | Self::TimedOut { stderr, .. } => stderr,
            Self::NotStarted { .. } | Self::Pipe { .. } => "",
        }
    }

    /// Returns whether there is no such program.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NotStarted { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Run {
    /// Creates a run of a program, given by absolute path or by a name to look up in [`PATH`]. The
    /// default time limit is one minute.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            limit: Duration::from_secs(60),
            input: Input::Nothing,
            output: Output::Collect,
            negative_status: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds several arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets the time after which the program is killed.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Declares an exit status that means "no", as for grep(1), and is not logged as a failure. It
    /// is still returned as an [`ExecError`].
    pub fn negative_status(mut self, status: i32) -> Self {
        self.negative_status = Some(status);
        self
    }

    /// Sets the bytes to pass on standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// Lets the program read a file on standard input, from where the file is read next.
    pub fn input_file(mut self, file: File) -> Self {
        self.input = Input::File(file);
        self
    }

    /// Lets the program read this process's standard input.
    pub fn inherit_input(mut self) -> Self {
        self.input = Input::Inherit;
        self
    }

    /// Lets the program write to this process's standard output, so that none is collected.
    pub fn inherit_output(mut self) -> Self {
        self.output = Output::Inherit;
        self
    }

    /// Formats the command as one line for the log.
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

    /// Runs the program until it exits.
    pub fn run(mut self) -> Result<ProgramOutput, ExecError> {
        match std::mem::replace(&mut self.input, Input::Nothing) {
            Input::Nothing => self.go(Stdio::null(), |_| ()).1,
            Input::Inherit => self.go(Stdio::inherit(), |_| ()).1,
            Input::File(file) => self.go(file.into(), |_| ()).1,
            Input::Bytes(bytes) => {
                // If the program exits without reading all input, only its exit status matters.
                let write = |child: &mut Child| child.stdin.take().map(|mut stdin| stdin.write_all(&bytes));
                self.go(Stdio::piped(), write).1
            }
        }
    }

    /// Runs the program while `feed` writes to its standard input, in this thread. Returns the
    /// result of `feed` and that of the program; if both failed, the program's failure is usually
    /// the cause.
    pub fn feed<T>(
        self,
        feed: impl FnOnce(&mut ChildStdin) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Result<ProgramOutput, ExecError>) {
        let (fed, result) =
            self.go(Stdio::piped(), |child| child.stdin.take().map(|mut stdin| feed(&mut stdin)));
        (fed.flatten(), result)
    }

    /// Runs the program while `take` reads its standard output, in this thread. When `take`
    /// returns, the pipe is closed. Returns the result of `take` and that of the program, which
    /// reads a file or nothing.
    pub fn drain<T>(
        mut self,
        take: impl FnOnce(&mut ChildStdout) -> T,
    ) -> (Option<T>, Result<ProgramOutput, ExecError>) {
        self.output = Output::HandOver;
        let input = match std::mem::replace(&mut self.input, Input::Nothing) {
            Input::File(file) => file.into(),
            _ => Stdio::null(),
        };
        let (taken, result) = self.go(input, |child| child.stdout.take().map(|mut pipe| take(&mut pipe)));
        (taken.flatten(), result)
    }

    fn go<T>(
        &self,
        stdin: Stdio,
        work: impl FnOnce(&mut Child) -> T,
    ) -> (Option<T>, Result<ProgramOutput, ExecError>) {
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
            // A process group of its own, so that its children can be killed with it.
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
            Err(error) if error.code().is_some() && error.code() == self.negative_status => {
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

/// A running program whose output is being read and whose time limit is being enforced.
struct Watched {
    /// Absent if the output is not collected here.
    stdout: Option<Receiver<io::Result<Vec<u8>>>>,
    stderr: Receiver<io::Result<Vec<u8>>>,
    /// Ends the guard thread when dropped.
    done: std::sync::mpsc::Sender<()>,
    /// Receives one message if the time limit expired.
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
        // The child has not been waited for yet, so the group id can't have been reused.
        std::thread::spawn(move || {
            if ended.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // Both fail only if the receiver or the process group no longer exists.
                let _ = kill.send(());
                let _ = killpg(group, Signal::SIGKILL);
            }
        });
        Self { stdout, stderr, done, killed, limit }
    }

    fn finish(self, mut child: Child, argv: String) -> Result<ProgramOutput, ExecError> {
        let gone = |_| io::Error::other("the reader ended");
        // A program running as root can't be killed from here (EPERM). Its output then does not
        // end, so the wait needs a limit of its own.
        let patience = self.limit + Duration::from_secs(5);
        let stdout = self.stdout.as_ref().map(|stdout| stdout.recv_timeout(patience));
        // Once stdout has been read to its end, the program is about to exit. If stdout is not
        // collected, it may still run for a long time.
        let patience = if stdout.is_some() { Duration::from_secs(5) } else { patience };
        let stderr = self.stderr.recv_timeout(patience).map_err(gone).and_then(|r| r);
        let timed_out = self.killed.try_recv().is_ok();
        let stderr_text = |stderr: io::Result<Vec<u8>>| {
            stderr.map(|bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        if timed_out {
            drop(self.done);
            // Reaps the child if it is dead; otherwise init will.
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
            Ok(ProgramOutput { stdout, stderr })
        } else {
            Err(ExecError::Failed { argv, status, stdout, stderr })
        }
    }
}

/// Reads a stream to its end in a separate thread, so that a full pipe never blocks the program.
fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<io::Result<Vec<u8>>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let result = stream.map_or(Ok(()), |mut stream| {
            (&mut stream).take(KEEP as u64).read_to_end(&mut kept)?;
            io::copy(&mut stream, &mut io::sink()).map(|_| ())
        });
        // After a timeout nobody receives this.
        let _ = send.send(result.map(|()| kept));
    });
    receive
}

/// Returns the path of the first of these programs that exists in a directory of [`PATH`].
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
    fn a_program_does_not_inherit_our_environment() {
        let output = Run::new("/usr/bin/env").run().unwrap();
        let mut lines: Vec<String> = output.text().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["HOME=/", "LC_ALL=C", &format!("PATH={PATH}")]);
    }

    #[test]
    fn input_is_written_while_output_is_read() {
        let big = vec![b'x'; 1 << 19];
        assert_eq!(Run::new("/bin/cat").input(big.clone()).run().unwrap().stdout, big);
    }

    #[test]
    fn a_failure_has_its_status_and_standard_error() {
        let error = Run::new("/bin/sh").args(["-c", "echo no >&2; exit 3"]).run().unwrap_err();
        assert_eq!((error.code(), error.stderr(), &*error.said()), (Some(3), "no", "no"));
        for (script, said) in
            [("kill -PIPE $$", "signal: 13 (SIGPIPE)"), ("echo >&2; exit 3", "exit status: 3")]
        {
            let error = Run::new("/bin/sh").args(["-c", script]).run().unwrap_err();
            assert_eq!(error.said(), said);
        }
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
    fn output_is_drained_while_the_program_runs_or_left_unread() {
        let line = ["-c", "head -c 3000000 /dev/zero; echo yes >&2"];
        let (read, result) = Run::new("/bin/sh").args(line).drain(|pipe| io::copy(pipe, &mut io::sink()));
        assert_eq!((read.unwrap().unwrap(), result.unwrap().stderr), (3_000_000, "yes".to_owned()));
        // A program whose output nobody reads is not waited for: SIGPIPE ends it.
        let (_, result) = Run::new("/usr/bin/yes").limit(Duration::from_secs(20)).drain(|_| ());
        assert!(matches!(result, Err(ExecError::Failed { .. })), "{result:?}");
        let (none, result) = Run::new("/nonexistent").drain(|_| ());
        assert!(none.is_none() && result.unwrap_err().is_missing());
    }

    #[test]
    fn a_program_that_is_silent_for_long_is_waited_for() {
        let (_, result) =
            Run::new("/bin/sh").args(["-c", "exec >&-; sleep 6; echo late >&2; exit 3"]).drain(|_| ());
        let error = result.unwrap_err();
        assert_eq!((error.code(), error.stderr()), (Some(3), "late"));
    }

    #[test]
    fn unread_input_is_no_failure() {
        Run::new("/bin/true").input(vec![0; 1 << 20]).run().unwrap();
    }
}
