//! The log: ADMIN.md lists the events and fields that the source logs, and no others. And the
//! shipped logrotate file, run by the real logrotate on logs that are still being written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::apache::give_to_web_user;
use crate::support::stage::{Stage, public_folder};

/// Runs logrotate once with the installed file, its folders moved below another root.
fn rotate(root: &Path) {
    // Kept until the file is read: the last holder removes the installation.
    let stage = Stage::shared();
    let text = fs::read_to_string(stage.path("/etc/logrotate.d/vgrid")).expect("make install ships it");
    let file = root.join("vgrid.conf");
    let text = text.replace("/var/", &format!("{}/var/", root.display()));
    fs::write(&file, text).expect("its copy");
    let run = Command::new("/usr/sbin/logrotate").arg("-s").args([&root.join("state"), &file]).output();
    let run = run.expect("logrotate is installed (tests/xenhost/packages)");
    assert!(run.status.success() && run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn long_logs_are_rotated_while_in_use() {
    let root = public_folder();
    let (consoles, own) = (root.path().join("var/log/xen/console"), root.path().join("var/lib/vgrid"));
    for folder in [&consoles, &own] {
        fs::create_dir_all(folder).expect("a folder");
    }
    give_to_web_user(&own);
    let long = [consoles.join("guest-alice_vm1.log"), own.join("node.log")];
    let short = [consoles.join("guest-bob_vm2.log"), consoles.join("hypervisor.log")];
    let mut writers = Vec::new();
    for path in long.iter().chain(&short) {
        let mut writer = OpenOptions::new().append(true).create(true).open(path).expect("a log");
        let lines = if long.contains(path) { 1 << 20 } else { 1 };
        writer.write_all("seventeen letters\n".repeat(lines).as_bytes()).expect("written");
        writers.push(writer);
    }
    give_to_web_user(&long[1]);
    rotate(root.path());
    for (path, writer) in long.iter().zip(&mut writers) {
        let rotated = path.with_extension("log.1");
        assert_eq!(fs::metadata(&rotated).expect("the rotated log").len(), 18 << 20);
        writer.write_all(b"after\n").expect("written");
        assert_eq!(fs::read_to_string(path).expect("the log"), "after\n", "{}", path.display());
        assert_eq!(fs::metadata(path).unwrap().uid(), fs::metadata(&rotated).unwrap().uid());
    }
    for path in &short {
        assert!(fs::metadata(path).is_ok_and(|facts| facts.len() == 18), "{}", path.display());
    }
}

/// The log's words.
#[derive(Debug, Default)]
struct Words {
    /// The levels of each event; [`ANY`] stands for one that the source computes.
    events: BTreeMap<String, BTreeSet<String>>,
    fields: BTreeSet<String>,
}

const ANY: &str = "any";

/// A piece of code: a string literal's content, or what is between two of them.
enum Piece<'a> {
    Literal(&'a str),
    Code(&'a str),
}

fn pieces(code: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once('"') {
        pieces.push(Piece::Code(before));
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.expect("a literal's end");
        pieces.push(Piece::Literal(&after[..end]));
        rest = &after[end + 1..];
    }
    pieces.push(Piece::Code(rest));
    pieces
}

/// The arguments of a call, from behind its opening parenthesis.
fn arguments(code: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let mut depth = 0;
    for piece in pieces(code) {
        match piece {
            Piece::Literal(text) => arguments.last_mut().unwrap().push_str(&format!("\"{text}\"")),
            Piece::Code(code) => {
                for c in code.chars() {
                    match c {
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' if depth == 0 => return arguments,
                        ')' | ']' | '}' => depth -= 1,
                        ',' if depth == 0 => {
                            arguments.push(String::new());
                            continue;
                        }
                        _ => {}
                    }
                    arguments.last_mut().unwrap().push(c);
                }
            }
        }
    }
    panic!("a call without an end: {code:.100}");
}

fn is_word(text: &str, also: char) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == also)
}

/// The literals in some code that are events by their form.
fn events_in(code: &str) -> Vec<&str> {
    let is_event = |text: &str| {
        text.split_once('.').is_some_and(|(subject, verb)| is_word(subject, '-') && is_word(verb, '-'))
    };
    let literals = pieces(code).into_iter().filter_map(|piece| match piece {
        Piece::Literal(text) => Some(text),
        Piece::Code(_) => None,
    });
    literals.filter(|text| is_event(text)).collect()
}

/// The literals in some code that stand first in a tuple, as a field's name does.
fn fields_in(code: &str) -> Vec<&str> {
    let pieces = pieces(code);
    let fields = pieces.windows(3).filter_map(|window| match window {
        [Piece::Code(before), Piece::Literal(field), Piece::Code(after)]
            if before.ends_with('(')
                && !before[..before.len() - 1]
                    .ends_with(|c: char| c.is_alphanumeric() || "_!>".contains(c))
                && after.starts_with(',')
                && is_word(field, '_') =>
        {
            Some(*field)
        }
        _ => None,
    });
    fields.collect()
}

/// Whatever a call names by literals is taken from there, and the rest from its whole file.
fn words_of_the_source() -> Words {
    // `log::event` adds these to every line itself.
    let fields = ["program", "request"].map(str::to_owned).into();
    let mut words = Words { fields, ..Words::default() };
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                words.add(&fs::read_to_string(&path).expect("a source file"));
            }
        }
    }
    words
}

impl Words {
    fn add(&mut self, source: &str) {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = lines.collect::<Vec<_>>().join("\n");
        assert!(!code.contains("log::event;") && !code.contains("log::event as"), "call it log::event");
        let calls = |word: &'static str| code.match_indices(word).map(move |(at, _)| at + word.len());
        for at in calls("log::event(") {
            let arguments = arguments(&code[at..]);
            let named = arguments[2..].iter().flat_map(|facts| fields_in(facts)).collect::<Vec<_>>();
            let named = if named.is_empty() { fields_in(&code) } else { named };
            self.fields.extend(named.into_iter().map(str::to_owned));
            self.add_events(&arguments, &code);
        }
        for at in calls("audit::") {
            let Some((function, _)) = code[at..].split_once('(') else { continue };
            if is_word(function, '_') {
                self.add_events(&arguments(&code[at + function.len() + 1..]), &code);
            }
        }
    }

    fn add_events(&mut self, arguments: &[String], code: &str) {
        let level =
            arguments[0].rsplit_once("Level::").map_or(ANY.to_owned(), |(_, level)| level.to_lowercase());
        let named = events_in(&arguments[1]);
        let events = if named.is_empty() { events_in(code) } else { named };
        for event in events {
            self.events.entry(event.to_owned()).or_default().insert(level.clone());
        }
    }
}

fn words_of_the_manual() -> Words {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("ADMIN.md");
    let manual = fs::read_to_string(manual).expect("ADMIN.md");
    let section = manual.split("\n## Log events\n").nth(1).expect("its section on the log");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut words = Words::default();
    for part in section.split("\n### ").skip(1) {
        for row in part.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            for word in cells[0].split('`').skip(1).step_by(2).map(str::to_owned) {
                let is_new = if part.starts_with("Fields\n") {
                    words.fields.insert(word.clone())
                } else {
                    let levels = cells[1].split(", ").map(|level| level.trim().to_owned()).collect();
                    words.events.insert(word.clone(), levels).is_none()
                };
                assert!(is_new, "{word} is there twice");
            }
        }
    }
    words
}

#[test]
fn every_event_and_every_field_is_in_the_manual_and_the_other_way_round() {
    let (source, manual) = (words_of_the_source(), words_of_the_manual());
    let names = |words: &Words| words.events.keys().cloned().collect::<BTreeSet<_>>();
    for (logged, listed) in [(&names(&source), &names(&manual)), (&source.fields, &manual.fields)] {
        let (missing, invented) = (logged - listed, listed - logged);
        assert!(missing.is_empty(), "not in ADMIN.md: {missing:?}");
        assert!(invented.is_empty(), "in ADMIN.md alone: {invented:?}");
    }
    for (event, logged) in &source.events {
        let listed = &manual.events[event];
        let unlisted: Vec<_> =
            logged.iter().filter(|level| *level != ANY && !listed.contains(*level)).collect();
        assert!(unlisted.is_empty(), "{event} has the level {unlisted:?}, too");
        assert!(logged.contains(ANY) || listed == logged, "{event} has the level {logged:?} alone");
    }
}
