//! Reads the files, and reports errors by file and line, or by section and key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::model::mail::{Address, AddressFault};
use crate::model::names::NameFault;
use crate::model::sign::Key;

/// Why the configuration can't be used. `Display` names the file, and, where known, the line and
/// the remedy.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value has the wrong type.
    #[error("{}, line {line}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line number, counted from one.
        line: usize,
        /// The parser's message.
        message: String,
    },
    /// The file is in vGrid's `key: value` syntax of 2007.
    #[error("{0}: this file is in vGrid's old syntax; convert it with: vgrid-config-convert --in-place {0}", file.display())]
    OldSyntax {
        /// The file.
        file: PathBuf,
    },
    /// There is no such key or section.
    #[error("{}, line {line}: unknown key `{key}`{}", file.display(), nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The line number, counted from one.
        line: usize,
        /// The key.
        key: String,
        /// The known key with the most similar spelling.
        nearest: Option<String>,
    },
    /// A key or value has the right type, but is not allowed.
    #[error("{}: [{section}] {key}: {message}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The section.
        section: &'static str,
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
}

/// The text of a file, and its path for messages.
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) text: String,
}

impl Source {
    pub(super) fn read(dir: &Path, name: &str) -> Result<Self, ConfigError> {
        let file = dir.join(name);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Self { file, text }),
            Err(source) => Err(ConfigError::Unreadable { file, source }),
        }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let file = self.file.clone();
        if looks_old(&self.text) {
            return ConfigError::OldSyntax { file };
        }
        let start = error.span().map_or(0, |span| span.start).min(self.text.len());
        let line = self.text[..start].matches('\n').count() + 1;
        // serde words this error identically for every struct: unknown field `x`, expected `a` or
        // `b`.
        let mut quoted = error.message().split('`').skip(1).step_by(2);
        match quoted.next() {
            Some(key) if error.message().starts_with("unknown field") => {
                let nearest = quoted
                    .map(|known| {
                        (strsim::damerau_levenshtein(&key.to_lowercase(), &known.to_lowercase()), known)
                    })
                    .min()
                    .filter(|(distance, known)| *distance <= known.len() / 2)
                    .map(|(_, known)| known.to_owned());
                ConfigError::UnknownKey { file, line, key: key.to_owned(), nearest }
            }
            _ => ConfigError::Syntax { file, line, message: error.message().to_owned() },
        }
    }

    /// Creates the error for a key or value that is not allowed.
    pub(super) fn value(
        &self,
        section: &'static str,
        key: impl fmt::Display,
        message: impl fmt::Display,
    ) -> ConfigError {
        ConfigError::Value {
            file: self.file.clone(),
            section,
            key: key.to_string(),
            message: message.to_string(),
        }
    }

    /// Reads a section whose keys are names, in the order of the file.
    pub(super) fn names<K, V, R>(
        &self,
        section: &'static str,
        table: Pairs,
        read: R,
    ) -> Result<Vec<(K, V)>, ConfigError>
    where
        K: FromStr<Err = NameFault> + Ord + fmt::Display,
        R: Fn(toml::Value) -> Result<V, String>,
    {
        let mut pairs: Vec<(K, V)> = Vec::with_capacity(table.0.len());
        for (key, value) in table.0 {
            let name: K = key.parse().map_err(|fault| self.value(section, &key, fault))?;
            let value = read(value).map_err(|message| self.value(section, &key, message))?;
            pairs.push((name, value));
        }
        // Keys that are different in TOML may be the same name in different case. A pool may have
        // thousands of names, and sorting is the fastest way to find duplicates.
        let mut sorted: Vec<&K> = pairs.iter().map(|(name, _)| name).collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|two| two[0] == two[1]) {
            Some(two) => Err(self.value(section, two[0], "is there twice")),
            None => Ok(pairs),
        }
    }
}

/// A section with arbitrary keys, in the order of the file. The parser has already refused
/// duplicate keys.
#[derive(Debug, Default)]
pub(super) struct Pairs(Vec<(String, toml::Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a section")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs, M::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or_default());
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// Returns whether a text is in the old syntax: it has `key: value` lines, and no `key = value`.
pub(super) fn looks_old(text: &str) -> bool {
    let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', ';', '[']));
    let separator = |line: &str| line.find([':', '=']).map(|at| line.as_bytes()[at]);
    lines().any(|line| separator(line) == Some(b':')) && !lines().any(|line| separator(line) == Some(b'='))
}

/// Reads a value that must be text.
pub(super) fn text(value: toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text),
        other => Err(format!("must be a text in quotes, not {}", other.type_str())),
    }
}

/// Reads a value that must be a mail address; an empty text stands for none.
pub(super) fn address(value: toml::Value) -> Result<Option<Address>, String> {
    match text(value)?.as_str() {
        "" => Ok(None),
        address => address.parse().map(Some).map_err(|fault: AddressFault| fault.to_string()),
    }
}

/// Reads a value that must be a whole number.
// Takes its argument by value so that it fits `Source::names`.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn count(value: toml::Value) -> Result<u32, String> {
    let number = value.as_integer().ok_or("must be a whole number")?;
    u32::try_from(number).map_err(|_| format!("must be from 0 to {}", u32::MAX))
}

/// Formats the error for a missing key that has no default, in serde's wording.
pub(super) fn missing(key: &str) -> String {
    format!("missing field `{key}`")
}

/// Returns whether a text is a URL, judging by its scheme.
pub(super) fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// Reads the key file named in the configuration file `config`.
pub(super) fn read_key(file: &Path, config: &Path) -> Result<Key, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    Key::new(&text).ok_or_else(|| ConfigError::Value {
        file: config.to_owned(),
        section: "General",
        key: "keyFile".to_owned(),
        message: format!("the key in {} has fewer than {} characters", file.display(), Key::MIN),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Server;

    fn server(text: &str) -> Result<Server, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("server.cfg"), text).unwrap();
        Server::load(dir.path())
    }

    fn words(text: &str) -> String {
        let message = server(text).unwrap_err().to_string();
        message[message.find("server.cfg").unwrap()..].to_owned()
    }

    #[test]
    fn an_unknown_key_is_reported_with_the_nearest_known_one() {
        assert_eq!(
            words("[General]\nEnvUserNameVariable = \"REMOTE_USER\"\n"),
            "server.cfg, line 2: unknown key `EnvUserNameVariable`; did you mean `EnvUsernameVariable`?"
        );
        assert_eq!(
            words("[General]\nEnvUsernameVariable = \"REMOTE_USER\"\n\n[Adminstrators]\n"),
            "server.cfg, line 4: unknown key `Adminstrators`; did you mean `Administrators`?"
        );
        assert_eq!(words("[General]\nqqq = 1\n"), "server.cfg, line 2: unknown key `qqq`");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_with_its_line() {
        let message = words("[General]\n\nEnvUsernameVariable = 5\n");
        assert!(message.starts_with("server.cfg, line 3: "), "{message}");
        let message = words("[General]\nEnvUsernameVariable = \"QUERY_STRING\"\n");
        assert!(message.contains("set by the client"), "{message}");
    }

    #[test]
    fn a_missing_key_is_reported_with_the_line_of_its_section() {
        assert_eq!(words(""), "server.cfg, line 1: missing field `General`");
        assert_eq!(
            words("\n[General]\nkeyFile = \"/k\"\n"),
            "server.cfg, line 2: missing field `EnvUsernameVariable`"
        );
        assert_eq!(
            words("General = 5\n"),
            "server.cfg, line 1: invalid type: integer `5`, expected struct ServerGeneral"
        );
        // Missing keys are detected at the end of their section, before the next one is read.
        assert_eq!(
            words("[General]\n[Leases]\nqqq = 1\n"),
            "server.cfg, line 1: missing field `EnvUsernameVariable`"
        );
    }

    #[test]
    fn the_old_syntax_is_reported_with_the_command_that_converts_it() {
        let message = server("[General]\nEnvUsernameVariable: REMOTE_USER\n").unwrap_err().to_string();
        assert!(message.contains("vgrid-config-convert --in-place /"), "{message}");
    }
}
