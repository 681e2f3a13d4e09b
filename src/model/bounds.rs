//! Limits on what is accepted from a node. A message that exceeds them comes from a faulty or
//! malicious node and is rejected as a whole: if a list were truncated, the omitted entries would
//! look as if they were missing.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// The maximum number of entries in a list: many times what the largest host has.
pub const ENTRIES: usize = 10_000;

/// The maximum length of a name or word, in bytes: twice the longest in LVM and Xen.
pub const WORD: usize = 255;

/// The maximum length of a console log's tail, in bytes: enough for what a node sends, each byte of
/// which can become three (U+FFFD).
pub const CONSOLE: usize = 256 << 10;

/// Deserializes a list of at most [`ENTRIES`].
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

/// Deserializes a list of at most [`ENTRIES`] that may be absent; the field needs `#[serde(default)]`,
/// too.
pub fn some_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    list(deserializer).map(Some)
}

fn text<'de, D: Deserializer<'de>>(deserializer: D, most: usize) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() <= most {
        Ok(text)
    } else {
        Err(D::Error::custom(format_args!("a text of {} bytes is longer than {most}", text.len())))
    }
}

/// Deserializes a text of at most [`WORD`] bytes.
pub fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer, WORD)
}

/// Deserializes a text of at most [`CONSOLE`] bytes.
pub fn console<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer, CONSOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Message {
        #[serde(deserialize_with = "list")]
        list: Vec<u8>,
        #[serde(deserialize_with = "word")]
        word: String,
        #[serde(default, deserialize_with = "some_list")]
        more: Option<Vec<u8>>,
    }

    fn read(entries: usize, word: usize) -> Result<Message, String> {
        let list = vec!["7"; entries].join(",");
        let json = format!(r#"{{"list":[{list}],"word":"{}"}}"#, "x".repeat(word));
        serde_json::from_str(&json).map_err(|error| error.to_string())
    }

    #[test]
    fn an_oversized_message_is_rejected_as_a_whole() {
        let message = read(ENTRIES, WORD).unwrap();
        assert_eq!((message.list.len(), message.word.len()), (ENTRIES, WORD));
        assert!(read(ENTRIES + 1, 1).unwrap_err().contains("more than 10000 entries"));
        assert!(read(1, WORD + 1).unwrap_err().contains("longer than 255"));
    }

    #[test]
    fn a_list_that_may_be_absent_is_as_short() {
        let read = |more: &str| {
            let json = format!(r#"{{"list":[],"word":"x"{more}}}"#);
            serde_json::from_str::<Message>(&json)
                .map(|message| message.more)
                .map_err(|error| error.to_string())
        };
        assert_eq!((read(""), read(r#","more":[]"#)), (Ok(None), Ok(Some(vec![]))));
        let entries = |n| format!(r#","more":[{}]"#, vec!["7"; n].join(","));
        assert_eq!(read(&entries(ENTRIES)).unwrap().map(|more| more.len()), Some(ENTRIES));
        assert!(read(&entries(ENTRIES + 1)).unwrap_err().contains("more than 10000 entries"));
    }
}
