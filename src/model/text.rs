//! Sentences and lines: what several rooms do to texts before somebody reads them.

use std::fmt::Display;

/// Takes out what would break a line into two or a column into two.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What somebody gave as a reason, as the end of a sentence of ours.
pub fn ended(reason: &str) -> String {
    let stop = if reason.ends_with(['.', '!', '?', '…']) { "" } else { "." };
    format!("{reason}{stop}")
}

/// A fault of a type's own parser as a sentence.
pub fn sentence(fault: &impl Display) -> String {
    let text = fault.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// A span of seconds in the largest unit that says something.
pub fn ago(seconds: i64) -> String {
    match seconds {
        // Also when a clock was set back.
        ..5 => "just now".to_owned(),
        5..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_one_unit() {
        for (seconds, text) in [
            (-50, "just now"),
            (4, "just now"),
            (5, "5 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7200, "2 h ago"),
            (172_800, "2 days ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }
}
