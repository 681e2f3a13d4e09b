//! The framework of `vgrid-check`. Each check passes, or reports what is wrong and what to type or
//! edit.
//!
//! A check returns its result as a [`Fact`], which later checks take as input. A check whose
//! inputs are missing therefore can't run by mistake: it is skipped, and names the check that
//! failed. The checks common to the server and the nodes are in [`common`] and [`apache`]; the
//! others belong to their halves.

pub mod apache;
pub mod common;
pub mod rights;

use std::fmt::{self, Display};
use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::model::fault::detail;
use crate::model::names::RequestId;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, as a sentence without the period.
    pub why: String,
    /// The command to type or the file to edit.
    pub remedy: String,
}

impl Problem {
    /// Creates a problem from its description and its remedy.
    pub fn new(why: impl Display, remedy: impl Display) -> Self {
        Self { why: detail(&why.to_string()), remedy: remedy.to_string() }
    }
}

/// Turns an error into a [`Problem`] by adding a remedy.
pub trait WithRemedy<T> {
    /// Adds the remedy to an error.
    fn with_remedy(self, remedy: impl Display) -> Result<T, Problem>;
}

impl<T, E: Display> WithRemedy<T> for Result<T, E> {
    fn with_remedy(self, remedy: impl Display) -> Result<T, Problem> {
        self.map_err(|error| Problem::new(error, remedy))
    }
}

/// The result of a check that could be carried out.
#[derive(Debug)]
pub struct Finding<T> {
    value: Option<T>,
    note: String,
    problems: Vec<Problem>,
}

impl<T> Finding<T> {
    /// Everything is right. `value` goes to the checks that need it, `note` is for the report.
    pub fn passed(value: T, note: impl Display) -> Self {
        Self { value: Some(value), note: note.to_string(), problems: Vec::new() }
    }

    /// Some of several things may be wrong. `value` holds those that are right; without it, the
    /// checks that need it are skipped.
    pub fn partial(value: Option<T>, note: impl Display, problems: Vec<Problem>) -> Self {
        Self { value, note: note.to_string(), problems }
    }
}

/// The outcome of a check, with the value that it found.
pub type Verdict<T> = Result<Finding<T>, Problem>;

/// Why a check was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The named check did not pass.
    Needs(&'static str),
    /// The check requires root.
    NotRoot,
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needs(name) => write!(f, "needs \"{name}\""),
            Self::NotRoot => f.write_str("only root can see this: run vgrid-check as root"),
        }
    }
}

/// A value found by a check, for the checks that need it.
#[derive(Debug, Clone, Copy)]
pub enum Fact<T> {
    /// The value.
    Known(T),
    /// There is none, for this reason.
    Unknown(Cause),
}

impl<T> Fact<T> {
    /// Borrows the value.
    pub fn as_ref(&self) -> Fact<&T> {
        match self {
            Self::Known(value) => Fact::Known(value),
            Self::Unknown(cause) => Fact::Unknown(*cause),
        }
    }

    /// Combines two values; if either is missing, returns the reason.
    pub fn and<U>(self, other: Fact<U>) -> Fact<(T, U)> {
        match (self, other) {
            (Self::Known(a), Fact::Known(b)) => Fact::Known((a, b)),
            (Self::Unknown(cause), _) | (_, Fact::Unknown(cause)) => Fact::Unknown(cause),
        }
    }

    /// Returns the value, if there is one.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

/// The outcome of a check, for the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Passed, with a note on what was found.
    Passed(String),
    /// Failed, with one or more problems.
    Failed(Vec<Problem>),
    /// Skipped.
    Skipped(Cause),
}

/// A check and its outcome: one line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The check's name.
    pub name: &'static str,
    /// The outcome.
    pub outcome: Outcome,
}

impl Line {
    /// Returns the note, the problems or the reason for skipping, on one line.
    fn why(&self) -> String {
        match &self.outcome {
            Outcome::Passed(note) => note.clone(),
            Outcome::Failed(problems) => joined(problems.iter().map(|problem| problem.why.as_str())),
            Outcome::Skipped(cause) => cause.to_string(),
        }
    }

    fn remedy(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Failed(problems) => Some(joined(problems.iter().map(|problem| problem.remedy.as_str()))),
            _ => None,
        }
    }

    fn status(&self) -> &'static str {
        match self.outcome {
            Outcome::Passed(_) => "passed",
            Outcome::Failed(_) => "failed",
            Outcome::Skipped(_) => "skipped",
        }
    }
}

/// Joins texts, dropping duplicates.
fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut different: Vec<&str> = Vec::new();
    for text in texts {
        if !different.contains(&text) {
            different.push(text);
        }
    }
    different.join("; ")
}

/// The checks of one run.
#[derive(Debug)]
pub struct Checks {
    /// Only list the names of the checks; run none.
    list_only: bool,
    is_root: bool,
    lines: Vec<Line>,
    /// The request id under which servers and nodes log the requests of these checks.
    pub request: RequestId,
}

impl Checks {
    /// Starts a run of checks. With `list_only`, they are only listed.
    pub fn new(list_only: bool) -> Self {
        Self {
            list_only,
            is_root: nix::unistd::geteuid().is_root(),
            lines: Vec::new(),
            request: RequestId::generate(),
        }
    }

    /// Runs a check, unless the values that it needs are missing.
    pub fn check<N, T>(
        &mut self,
        name: &'static str,
        needs: Fact<N>,
        look: impl FnOnce(N) -> Verdict<T>,
    ) -> Fact<T> {
        let (outcome, found) = match needs {
            _ if self.list_only => (Outcome::Passed(String::new()), None),
            Fact::Unknown(cause) => (Outcome::Skipped(cause), None),
            Fact::Known(needs) => match look(needs) {
                Err(problem) => (Outcome::Failed(vec![problem]), None),
                Ok(seen) if seen.problems.is_empty() => (Outcome::Passed(seen.note), seen.value),
                Ok(seen) => (Outcome::Failed(seen.problems), seen.value),
            },
        };
        let cause = match outcome {
            Outcome::Skipped(cause) => cause,
            _ => Cause::Needs(name),
        };
        self.lines.push(Line { name, outcome });
        found.map_or(Fact::Unknown(cause), Fact::Known)
    }

    /// Runs a check that requires root.
    pub fn check_as_root<N, T>(
        &mut self,
        name: &'static str,
        needs: Fact<N>,
        look: impl FnOnce(N) -> Verdict<T>,
    ) -> Fact<T> {
        let needs = if self.is_root { needs } else { Fact::Unknown(Cause::NotRoot) };
        self.check(name, needs, look)
    }

    /// Returns whether checks are only listed. Then all are, whatever is configured.
    pub fn is_list(&self) -> bool {
        self.list_only
    }

    /// Returns whether the checks run as root.
    pub fn is_root(&self) -> bool {
        self.is_root
    }

    /// Returns the checks so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Returns whether no check failed. Skipped checks do not count as failures.
    pub fn none_failed(&self) -> bool {
        !self.lines.iter().any(|line| matches!(line.outcome, Outcome::Failed(_)))
    }

    /// Writes one line per check, then the totals.
    pub fn write_text(&self, out: &mut impl Write) -> std::io::Result<()> {
        let width = self.lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
        for line in &self.lines {
            let (word, style) = match line.outcome {
                Outcome::Passed(_) => ("ok     ", Style::new().fg_color(Some(AnsiColor::Green.into()))),
                Outcome::Failed(_) => ("FAILED ", Style::new().fg_color(Some(AnsiColor::Red.into())).bold()),
                Outcome::Skipped(_) => ("skipped", Style::new().fg_color(Some(AnsiColor::Yellow.into()))),
            };
            write!(out, "{style}{word}{style:#}  {:width$}  {}", line.name, line.why())?;
            if let Some(remedy) = line.remedy() {
                let bold = Style::new().bold();
                write!(out, " -> {bold}{remedy}{bold:#}")?;
            }
            writeln!(out)?;
        }
        let count = |status: &str| self.lines.iter().filter(|line| line.status() == status).count();
        writeln!(out, "{} passed, {} failed, {} skipped", count("passed"), count("failed"), count("skipped"))
    }

    /// Writes the checks as a JSON array.
    pub fn write_json(&self, out: &mut impl Write) -> std::io::Result<()> {
        #[derive(Serialize)]
        struct Row {
            name: &'static str,
            status: &'static str,
            why: String,
            remedy: Option<String>,
        }
        let rows: Vec<Row> = self
            .lines
            .iter()
            .map(|line| Row {
                name: line.name,
                status: line.status(),
                why: line.why(),
                remedy: line.remedy(),
            })
            .collect();
        serde_json::to_writer_pretty(&mut *out, &rows)?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Checks {
        let mut checks = Checks::new(false);
        let one = checks.check("one", Fact::Known(()), |()| Ok(Finding::passed(1, "is one")));
        let two =
            checks.check("two", one.as_ref(), |_| -> Verdict<()> { Err(Problem::new("no\ntwo", "type 2")) });
        let three =
            checks.check("three", one.and(two), |_| -> Verdict<()> { unreachable!("two is not known") });
        checks.check("four", three, |()| -> Verdict<()> { unreachable!("three is not known") });
        let some = checks.check("five", Fact::Known(()), |()| {
            let problems = vec![Problem::new("a", "do"), Problem::new("b", "do")];
            Ok(Finding::partial(Some(5), "", problems))
        });
        checks.check("six", some, |five| Ok(Finding::passed((), format!("{five} is enough"))));
        checks
    }

    #[test]
    fn checks_that_depend_on_a_failed_check_are_skipped_and_name_it() {
        let mut out = Vec::new();
        let checks = checks();
        checks.write_text(&mut anstream::StripStream::new(&mut out)).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok       one    is one\n\
             FAILED   two    no; two -> type 2\n\
             skipped  three  needs \"two\"\n\
             skipped  four   needs \"two\"\n\
             FAILED   five   a; b -> do\n\
             ok       six    5 is enough\n\
             2 passed, 2 failed, 2 skipped\n"
        );
        assert!(!checks.none_failed());
    }

    #[test]
    fn json_has_the_same_content() {
        let mut out = Vec::new();
        checks().write_json(&mut out).unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            rows[1],
            serde_json::json!({"name": "two", "status": "failed", "why": "no; two", "remedy": "type 2"})
        );
        assert_eq!(rows[2]["status"], "skipped");
        assert_eq!(rows[2]["remedy"], serde_json::Value::Null);
    }

    #[test]
    fn listing_runs_no_check() {
        let mut checks = Checks::new(true);
        checks.check("one", Fact::Known(()), |()| -> Verdict<()> { unreachable!("only named") });
        checks.check_as_root("two", Fact::Known(()), |()| -> Verdict<()> { unreachable!("only named") });
        let names: Vec<_> = checks.lines().iter().map(|line| line.name).collect();
        assert_eq!(names, ["one", "two"]);
    }

    #[test]
    fn checks_that_require_root_are_skipped_for_others() {
        let mut checks = Checks { is_root: false, ..Checks::new(false) };
        let found =
            checks.check_as_root("one", Fact::Known(()), |()| -> Verdict<()> { unreachable!("not root") });
        checks.check("two", found, |()| -> Verdict<()> { unreachable!("not known") });
        assert!(checks.lines().iter().all(|line| line.outcome == Outcome::Skipped(Cause::NotRoot)));
        assert!(checks.none_failed());
    }
}
