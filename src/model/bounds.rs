//! How much of what a node says is believed. A node that says more is in disorder, or lies, and nothing that it says counts: to cut
//! a list would be to take what is left out for missing.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// The most entries that a list may have: many times what the largest host has.
pub const ENTRIES: usize = 10_000;

/// The longest that a name or a word may be, in bytes: twice what the longest of LVM's and Xen's are.
pub const WORD: usize = 255;

/// The longest that the end of a console's log may be, in bytes: what a node hands out, each byte of which can become three.
pub const CONSOLE: usize = 256 << 10;

/// A list of at most [`ENTRIES`].
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {ENTRIES} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if list.len() == ENTRIES {
                    return Err(A::Error::custom(format_args!("a list has more than {ENTRIES} entries")));
                }
                list.push(entry);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(List(PhantomData))
}

fn text<'de, D: Deserializer<'de>>(deserializer: D, most: usize) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() <= most {
        Ok(text)
    } else {
        Err(D::Error::custom(format_args!("a text of {} bytes is longer than {most}", text.len())))
    }
}

/// A text of at most [`WORD`] bytes.
pub fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer, WORD)
}

/// A text of at most [`CONSOLE`] bytes.
pub fn console<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer, CONSOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Said {
        #[serde(deserialize_with = "list")]
        list: Vec<u8>,
        #[serde(deserialize_with = "word")]
        word: String,
    }

    fn read(entries: usize, word: usize) -> Result<Said, String> {
        let list = vec!["7"; entries].join(",");
        let json = format!(r#"{{"list":[{list}],"word":"{}"}}"#, "x".repeat(word));
        serde_json::from_str(&json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_too_much_is_refused_whole() {
        let said = read(ENTRIES, WORD).unwrap();
        assert_eq!((said.list.len(), said.word.len()), (ENTRIES, WORD));
        assert!(read(ENTRIES + 1, 1).unwrap_err().contains("more than 10000 entries"));
        assert!(read(1, WORD + 1).unwrap_err().contains("longer than 255"));
    }
}
