//! Killing what works on a machine at a chosen moment.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};

use vgrid::model::stage::{Order, Stage};

use super::host::{Host, quote};

/// What is killed, by SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The worker, and only it; its helper works on.
    Worker,
    /// The helper, and only it; the worker lives to see that.
    Helper,
    /// All that Apache has started, by a restart of Apache.
    Service,
}

/// Waits on a host for the moment to kill.
pub struct Killer {
    child: Child,
    said: BufReader<ChildStdout>,
    what: String,
}

impl Host {
    /// Has somebody killed as soon as the record of a machine says that this order is in this stage and, where the
    /// stage has one, its helper is running. It looks when this returns, so the order can be given then.
    pub fn kill_at(&self, machine: &str, order: Order, stage: Stage, victim: Victim) -> Killer {
        let victim = format!("{victim:?}").to_lowercase();
        let words = [machine, order.as_str(), stage.as_str(), &victim];
        let what = words.join(" ");
        let script = quote(include_str!("kill_at.py"));
        let mut child = self
            .command(&format!("python3 -c {script} {what} 2>&1"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/xenhost/sh runs");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert_eq!(line, "armed\n", "{what}");
        Killer { child, said, what }
    }
}

impl Killer {
    /// Waits until it has killed.
    pub fn wait(mut self) {
        let mut text = String::new();
        self.said.read_to_string(&mut text).expect("text");
        let status = self.child.wait().expect("it ends");
        assert!(status.success() && text.starts_with("killed "), "{}: {status}: {text}", self.what);
    }
}
