//! Killing what works on a machine at a chosen moment.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};

use vgrid::model::stage::DeployStage;
use vgrid::model::wire::Work;

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

/// A stage of some work.
#[derive(Debug, Clone)]
pub struct Stage {
    /// What the record calls it; `None` for work that has no stages.
    pub name: Option<&'static str>,
    /// What a person reads.
    pub text: String,
}

/// The stages of each kind of work, as the code lists them.
pub fn stages(work: Work) -> Vec<Stage> {
    match work {
        Work::Deploy => DeployStage::ALL
            .into_iter()
            .map(|stage| Stage { name: Some(stage.as_str()), text: stage.to_string() })
            .collect(),
        Work::Terminate => vec![Stage { name: None, text: String::new() }],
        Work::None => Vec::new(),
    }
}

/// Waits on a host for the moment to kill.
pub struct Killer {
    child: Child,
    said: BufReader<ChildStdout>,
    what: String,
}

impl Host {
    /// Has somebody killed as soon as the record of a machine says that this work is in this stage and, where the
    /// stage has one, its helper is running. It looks when this returns, so the order can be given then.
    pub fn kill_at(&self, machine: &str, work: Work, stage: &Stage, victim: Victim) -> Killer {
        let work = serde_json::to_value(work).expect("a word");
        let victim = format!("{victim:?}").to_lowercase();
        let words = [machine, work.as_str().expect("a word"), stage.name.unwrap_or("-"), &victim];
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
