//! What `vgrid-check` does: it looks at one thing after the other, and says of each that it is as it should be,
//! or why not and what to type or edit.
//!
//! A check hands what it found out to those that need it, as a [`Found`]. So a check whose needs are not there can't
//! run by mistake: it is skipped, and names the check that is to blame. The checks that server and nodes have in
//! common are in [`common`] and [`apache`]; the others belong to their halves.

pub mod apache;
pub mod common;
pub mod rights;

use std::fmt::{self, Display};
use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::model::fault::detail;
use crate::model::names::RequestId;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, as a sentence without its full stop.
    pub why: String,
    /// What to type or to edit.
    pub remedy: String,
}

impl Problem {
    /// What is wrong, and what to do.
    pub fn new(why: impl Display, remedy: impl Display) -> Self {
        Self { why: detail(&why.to_string()), remedy: remedy.to_string() }
    }
}

/// Makes a [`Problem`] of an error by adding the remedy.
pub trait OrElse<T> {
    /// What to do about it.
    fn or_else_do(self, remedy: impl Display) -> Result<T, Problem>;
}

impl<T, E: Display> OrElse<T> for Result<T, E> {
    fn or_else_do(self, remedy: impl Display) -> Result<T, Problem> {
        self.map_err(|error| Problem::new(error, remedy))
    }
}

/// What a check saw.
#[derive(Debug)]
pub struct Seen<T> {
    value: Option<T>,
    note: String,
    problems: Vec<Problem>,
}

impl<T> Seen<T> {
    /// All is well: what others need of it, and what to say.
    pub fn well(value: T, note: impl Display) -> Self {
        Self { value: Some(value), note: note.to_string(), problems: Vec::new() }
    }

    /// Of several things some may be wrong. `value` is what is well; with none the checks that need it are skipped.
    pub fn partly(value: Option<T>, note: impl Display, problems: Vec<Problem>) -> Self {
        Self { value, note: note.to_string(), problems }
    }
}

/// What a check comes to.
pub type Verdict<T> = Result<Seen<T>, Problem>;

/// Why a check was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// That check did not pass.
    Needs(&'static str),
    /// Only root can see it.
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

/// What is known after a check.
#[derive(Debug, Clone, Copy)]
pub enum Found<T> {
    /// This.
    Known(T),
    /// Nothing, because of that.
    Unknown(Cause),
}

impl<T> Found<T> {
    /// A view of it.
    pub fn as_ref(&self) -> Found<&T> {
        match self {
            Self::Known(value) => Found::Known(value),
            Self::Unknown(cause) => Found::Unknown(*cause),
        }
    }

    /// Both, or why not.
    pub fn and<U>(self, other: Found<U>) -> Found<(T, U)> {
        match (self, other) {
            (Self::Known(a), Found::Known(b)) => Found::Known((a, b)),
            (Self::Unknown(cause), _) | (_, Found::Unknown(cause)) => Found::Unknown(cause),
        }
    }

    /// What is known.
    pub fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be; what was seen.
    Passed(String),
    /// Not so.
    Failed(Vec<Problem>),
    /// Not looked at.
    Skipped(Cause),
}

/// One check and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The check.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
}

impl Line {
    /// Why, in one line.
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

/// Different texts, one after the other.
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
    /// Only their names are wanted: nothing is looked at.
    list_only: bool,
    is_root: bool,
    lines: Vec<Line>,
    /// Under which servers and nodes log what these checks ask them.
    pub request: RequestId,
}

impl Checks {
    /// Checks that are made, or, with `list_only`, only named.
    pub fn new(list_only: bool) -> Self {
        Self {
            list_only,
            is_root: nix::unistd::geteuid().is_root(),
            lines: Vec::new(),
            request: RequestId::generate(),
        }
    }

    /// Makes a check that needs what others found.
    pub fn check<N, T>(
        &mut self,
        name: &'static str,
        needs: Found<N>,
        look: impl FnOnce(N) -> Verdict<T>,
    ) -> Found<T> {
        let (outcome, found) = match needs {
            _ if self.list_only => (Outcome::Passed(String::new()), None),
            Found::Unknown(cause) => (Outcome::Skipped(cause), None),
            Found::Known(needs) => match look(needs) {
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
        found.map_or(Found::Unknown(cause), Found::Known)
    }

    /// Makes a check that only root can make.
    pub fn check_as_root<N, T>(
        &mut self,
        name: &'static str,
        needs: Found<N>,
        look: impl FnOnce(N) -> Verdict<T>,
    ) -> Found<T> {
        let needs = if self.is_root { needs } else { Found::Unknown(Cause::NotRoot) };
        self.check(name, needs, look)
    }

    /// Whether root makes them.
    pub fn is_root(&self) -> bool {
        self.is_root
    }

    /// The checks so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Whether nothing failed. What was skipped for want of root does not count.
    pub fn all_well(&self) -> bool {
        !self.lines.iter().any(|line| matches!(line.outcome, Outcome::Failed(_)))
    }

    /// Writes one line a check, and a last one with the numbers.
    ///
    /// # Errors
    /// Those of `out`.
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

    /// Writes them as a JSON array.
    ///
    /// # Errors
    /// Those of `out`.
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
        let one = checks.check("one", Found::Known(()), |()| Ok(Seen::well(1, "is one")));
        let two =
            checks.check("two", one.as_ref(), |_| -> Verdict<()> { Err(Problem::new("no\ntwo", "type 2")) });
        let three =
            checks.check("three", one.and(two), |_| -> Verdict<()> { unreachable!("two is not known") });
        checks.check("four", three, |()| -> Verdict<()> { unreachable!("three is not known") });
        let some = checks.check("five", Found::Known(()), |()| {
            let problems = vec![Problem::new("a", "do"), Problem::new("b", "do")];
            Ok(Seen::partly(Some(5), "", problems))
        });
        checks.check("six", some, |five| Ok(Seen::well((), format!("{five} is enough"))));
        checks
    }

    #[test]
    fn what_needs_a_failed_check_is_skipped_and_names_the_first() {
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
        assert!(!checks.all_well());
    }

    #[test]
    fn json_has_the_same() {
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
    fn a_list_looks_at_nothing() {
        let mut checks = Checks::new(true);
        checks.check("one", Found::Known(()), |()| -> Verdict<()> { unreachable!("only named") });
        checks.check_as_root("two", Found::Known(()), |()| -> Verdict<()> { unreachable!("only named") });
        let names: Vec<_> = checks.lines().iter().map(|line| line.name).collect();
        assert_eq!(names, ["one", "two"]);
    }

    #[test]
    fn only_root_is_asked_for_what_only_root_sees() {
        let mut checks = Checks { is_root: false, ..Checks::new(false) };
        let found =
            checks.check_as_root("one", Found::Known(()), |()| -> Verdict<()> { unreachable!("not root") });
        checks.check("two", found, |()| -> Verdict<()> { unreachable!("not known") });
        assert!(checks.lines().iter().all(|line| line.outcome == Outcome::Skipped(Cause::NotRoot)));
        assert!(checks.all_well());
    }
}
