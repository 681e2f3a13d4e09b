//! Converts vGrid's configuration syntax of 2007 (Python's `ConfigParser`) to TOML.

use thiserror::Error;

use super::source::looks_old;

/// Why a text can't be converted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// A line that is neither a section, a comment, nor a key with a value.
    #[error("line {line}: {text:?} is neither [section], key: value, nor a comment")]
    Unreadable {
        /// The line number, counted from one.
        line: usize,
        /// The line.
        text: String,
    },
    /// The text is TOML already.
    #[error("this is TOML already; there is nothing to convert")]
    AlreadyToml,
    /// The result would not be valid TOML, for instance because of a duplicate key or section.
    #[error("the result would not be TOML: {0}")]
    NotToml(String),
}

/// Returns whether a value is meant as a number. All other values are text.
fn is_number(section: &str, key: &str) -> bool {
    matches!(section, "PhysicalHostsPool" | "VMSwapSize") || key == "nodeTimeout"
}

/// Converts a file's text, including comments. The result is valid TOML; whether its keys are known
/// is checked when it is loaded.
pub fn convert(old: &str) -> Result<String, ConvertError> {
    if !looks_old(old) && toml::from_str::<toml::Table>(old).is_ok() {
        return Err(ConvertError::AlreadyToml);
    }
    let mut out = String::with_capacity(old.len() + old.len() / 8);
    let mut section = String::new();
    let mut pending: Option<(String, String)> = None;
    for (index, line) in old.lines().enumerate() {
        let text = line.trim();
        // To ConfigParser, an indented line continues the previous value.
        if line.starts_with([' ', '\t'])
            && !text.is_empty()
            && !text.starts_with(['#', ';'])
            && let Some((_, value)) = &mut pending
        {
            value.push(' ');
            value.push_str(text);
            continue;
        }
        flush(&mut out, &section, &mut pending);
        if text.is_empty() {
            out.push('\n');
        } else if let Some(comment) = text.strip_prefix(['#', ';']) {
            out.push_str(&format!("#{comment}\n"));
        } else if let Some(name) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            name.trim().clone_into(&mut section);
            out.push_str(&format!("[{}]\n", toml_key(&section)));
        } else if let Some(at) = text.find([':', '=']).filter(|&at| at > 0) {
            let (key, value) = (text[..at].trim_end(), text[at + 1..].trim());
            pending = Some((key.to_owned(), value.to_owned()));
        } else {
            return Err(ConvertError::Unreadable { line: index + 1, text: text.to_owned() });
        }
    }
    flush(&mut out, &section, &mut pending);
    match toml::from_str::<toml::Table>(&out) {
        Ok(_) => Ok(out),
        Err(error) => Err(ConvertError::NotToml(error.message().to_owned())),
    }
}

fn flush(out: &mut String, section: &str, pending: &mut Option<(String, String)>) {
    if let Some((key, value)) = pending.take() {
        let value = match value.parse::<i64>() {
            Ok(number) if is_number(section, &key) => toml::Value::Integer(number),
            _ => toml::Value::String(value),
        };
        out.push_str(&format!("{} = {value}\n", toml_key(&key)));
    }
}

/// Formats a key for TOML: bare if possible, otherwise quoted.
fn toml_key(key: &str) -> String {
    if !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        key.to_owned()
    } else {
        toml::Value::String(key.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_syntax_is_converted_to_toml() {
        let old = "# pool\n[PhysicalHostsPool]\nhost1.example: 5\n\n[VMImages]\nslc4: Scientific \"Linux\"\n  CERN 4\n; end\n";
        let new = convert(old).unwrap();
        assert_eq!(
            new,
            "# pool\n[PhysicalHostsPool]\n\"host1.example\" = 5\n\n[VMImages]\nslc4 = 'Scientific \"Linux\" CERN 4'\n# end\n"
        );
        assert_eq!(convert(&new), Err(ConvertError::AlreadyToml));
    }

    #[test]
    fn an_unreadable_line_is_reported_with_its_number() {
        let error = convert("[a]\nb: c\nnonsense\n").unwrap_err();
        assert_eq!(error, ConvertError::Unreadable { line: 3, text: "nonsense".into() });
        assert!(matches!(convert("[a]\nb: c\nb: d\n"), Err(ConvertError::NotToml(_))));
    }
}
