//! Formatting of sentences and of lines for scripts, shared by several modules.

use std::fmt::{Display, Write as _};

/// Replaces control characters, which could split a line or a column, with spaces.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// A line for scripts, with tab-separated columns. No column contains a tab or a newline, whatever
/// its value.
#[derive(Debug, Default)]
pub struct Row {
    text: String,
    is_begun: bool,
}

impl Row {
    /// Creates a row of these columns.
    pub fn of(columns: &[&dyn Display]) -> Self {
        columns.iter().fold(Self::default(), Self::and)
    }

    /// Adds a column.
    #[must_use]
    pub fn and(mut self, column: impl Display) -> Self {
        if self.is_begun {
            self.text.push('\t');
        }
        self.is_begun = true;
        let begin = self.text.len();
        // Writing to a String can't fail.
        let _ = write!(self.text, "{column}");
        if self.text[begin..].contains(char::is_control) {
            let clean = one_line(&self.text[begin..]);
            self.text.replace_range(begin.., &clean);
        }
        self
    }

    /// Adds a column, or `-` if there is no value.
    #[must_use]
    pub fn or_dash(self, column: Option<impl Display>) -> Self {
        match column {
            Some(column) => self.and(column),
            None => self.and("-"),
        }
    }

    /// Returns the line with its newline.
    pub fn line(mut self) -> String {
        self.text.push('\n');
        self.text
    }
}

/// Adds a period to a reason unless it ends with one, to use it as the end of a sentence.
pub fn with_period(reason: &str) -> String {
    let stop = if reason.ends_with(['.', '!', '?', '…']) { "" } else { "." };
    format!("{reason}{stop}")
}

/// Turns the error of a type's parser into a sentence.
pub fn sentence(fault: &impl Display) -> String {
    let text = fault.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// Describes how long ago something happened, in the largest useful unit.
pub fn ago(seconds: i64) -> String {
    match seconds {
        // Also for a negative number, if the clock was set back.
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
    fn a_row_is_one_line_whatever_it_contains() {
        let row = Row::of(&[&"", &7, &"a\tb\r\nc"]).or_dash(None::<u8>).or_dash(Some("\u{85}")).and("");
        assert_eq!(row.line(), "\t7\ta b  c\t-\t \t\n");
    }

    #[test]
    fn spans_are_given_in_one_unit() {
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
