//! What breaks the checks of vgrid-check on a real host, one at a time.

use std::collections::BTreeSet;

use serde_json::Value;

/// A way to break a check.
pub struct Case {
    /// The check that must fail.
    pub breaks: &'static str,
    /// The command that breaks it.
    pub how: &'static str,
    /// The command that mends it.
    pub mends: &'static str,
    /// Words of what is wrong, and of the remedy.
    pub words: (&'static str, &'static str),
    /// Other checks that fail.
    pub fails: &'static [&'static str],
    /// Checks that are skipped.
    pub skips: &'static [&'static str],
}

/// A case in which only the one check fails.
pub const fn case(breaks: &'static str, how: &'static str, mends: &'static str) -> Case {
    Case { breaks, how, mends, words: ("", ""), fails: &[], skips: &[] }
}

pub type Names = BTreeSet<String>;

/// Reads what `vgrid-check --json` says. Returns the checks that failed, those that were skipped, and
/// for each that did not pass a line with its words.
pub fn read_report(status: i32, report: &str) -> (Names, Names, String) {
    let rows: Vec<Value> = serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {report}"));
    let with = |status: &str| -> Names {
        let rows = rows.iter().filter(|row| row["status"] == status);
        rows.map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
    };
    let (failed, skipped) = (with("failed"), with("skipped"));
    assert_eq!(status, i32::from(!failed.is_empty()), "{report}");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let messages: Vec<String> = rows
        .iter()
        .filter(|row| row["status"] != "passed")
        .map(|row| format!("{}: {} -> {}", text(row, "name"), text(row, "why"), text(row, "remedy")))
        .collect();
    (failed, skipped, messages.join("\n"))
}

/// Breaks one thing after the other. Each must fail the check that it is for, and no other.
pub fn must_break(
    cases: &[Case],
    sh: impl Fn(&str) -> String,
    run_checks: impl Fn() -> (Names, Names, String),
) {
    let names = |of: &[&str]| -> Names { of.iter().map(|&name| name.to_owned()).collect() };
    let mut wrong = Vec::new();
    for case in cases {
        sh(case.how);
        let (failed, skipped, messages) = run_checks();
        println!("{}: {}\n{messages}\n", case.breaks, case.how);
        sh(case.mends);
        let expected = (names(&[case.fails, &[case.breaks]].concat()), names(case.skips));
        if (&failed, &skipped) != (&expected.0, &expected.1) {
            wrong.push(format!(
                "{} ({}): failed {failed:?}, not {:?}; skipped {skipped:?}, not {:?}",
                case.breaks, case.how, expected.0, expected.1
            ));
        }
        let start = format!("{}: ", case.breaks);
        let line = messages.lines().find(|line| line.starts_with(&start)).unwrap_or_default();
        let (why, remedy) = line.split_once(" -> ").unwrap_or_default();
        if !why.contains(case.words.0) || !remedy.contains(case.words.1) {
            wrong.push(format!("{} ({}): {line:?} has no {:?}", case.breaks, case.how, case.words));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
