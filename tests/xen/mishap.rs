//! Faults that strike at a chosen moment while a machine is being worked on.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};

use vgrid::model::stage::{Order, Stage};

use super::host::{Host, quote};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// Only the worker gets SIGKILL; its helper goes on.
    Worker,
    /// Only the helper gets SIGKILL; the worker sees it die.
    Helper,
    /// Apache is stopped with every process it started, then started again.
    Service,
    /// The host's disk, which is also the portal's, is full until the worker has ended.
    Disk,
    /// The host's thin pool is full until the worker has ended.
    Pool,
    /// That pool has too little space for metadata until the worker has ended.
    Metadata,
    /// The helper stops, so that the stage lasts until the power is cut.
    Power,
}

/// A process on a host that waits for the moment to strike.
pub struct Strike {
    child: Child,
    output: BufReader<ChildStdout>,
    what: String,
}

impl Host {
    /// Strikes as soon as the machine's record names this order and stage and, if the stage has a
    /// helper, that is running. When this returns it is already watching, so the order can be
    /// given.
    pub fn strike_at(&self, machine: &str, order: Order, stage: Stage, mishap: Mishap) -> Strike {
        let mishap = format!("{mishap:?}").to_lowercase();
        let words = [machine, order.as_str(), stage.as_str(), &mishap];
        let what = words.join(" ");
        let script = quote(concat!(include_str!("../support/strike_lib.py"), include_str!("strike_at.py")));
        let mut child = self
            .command(&format!("python3 -c {script} {what} 2>&1"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/xenhost/sh runs");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        assert_eq!(line, "armed\n", "{what}");
        Strike { child, output, what }
    }
}

impl Strike {
    /// Waits until it has struck and the fault is over.
    pub fn wait(mut self) {
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("text");
        let status = self.child.wait().expect("an exit status");
        assert!(status.success() && text.starts_with("struck "), "{}: {status}: {text}", self.what);
    }
}
