//! What can happen to whoever works on a machine, at a chosen moment.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};

use vgrid::model::stage::{Order, Stage};

use super::host::{Host, quote};

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The worker is killed by SIGKILL, and only it; its helper works on.
    Worker,
    /// The helper is killed by SIGKILL, and only it; the worker lives to see that.
    Helper,
    /// Apache is stopped, and all that it has started with it; then it is started again.
    Service,
    /// The disk of the host, which is the portal's, too, is full until the worker has come to its end.
    Disk,
}

/// Waits on a host for the moment to strike.
pub struct Strike {
    child: Child,
    said: BufReader<ChildStdout>,
    what: String,
}

impl Host {
    /// Has something happen as soon as the record of a machine says that this order is in this stage and, where the
    /// stage has one, its helper is running. It looks when this returns, so the order can be given then.
    pub fn strike_at(&self, machine: &str, order: Order, stage: Stage, mishap: Mishap) -> Strike {
        let mishap = format!("{mishap:?}").to_lowercase();
        let words = [machine, order.as_str(), stage.as_str(), &mishap];
        let what = words.join(" ");
        let script = quote(include_str!("strike_at.py"));
        let mut child = self
            .command(&format!("python3 -c {script} {what} 2>&1"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/xenhost/sh runs");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert_eq!(line, "armed\n", "{what}");
        Strike { child, said, what }
    }
}

impl Strike {
    /// Waits until it has happened and is over.
    pub fn wait(mut self) {
        let mut text = String::new();
        self.said.read_to_string(&mut text).expect("text");
        let status = self.child.wait().expect("it ends");
        assert!(status.success() && text.starts_with("struck "), "{}: {status}: {text}", self.what);
    }
}
