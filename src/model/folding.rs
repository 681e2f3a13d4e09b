//! Equivalence of texts, and invisible characters, by the Unicode tables.

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};
use icu_properties::CodePointSetData;
use icu_properties::props::{BidiControl, DefaultIgnorableCodePoint};

/// Whether people whose names [fold](folded) to the same text are the same person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folding {
    /// They are different: the second one is refused.
    Off,
    /// They are the same, as in a directory that ignores case (LDAP).
    On,
}

/// Returns the common form of all spellings of a text that differ only in case or in the encoding
/// of letters and accents: its full case folding, in NFC (Unicode, section 3.13, D145, except for
/// the form of the result).
pub fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize(text);
    let folded = CaseMapper::new().fold_string(&decomposed);
    ComposingNormalizerBorrowed::new_nfc().normalize(&folded).into_owned()
}

/// Returns whether a character is not displayed (Default_Ignorable_Code_Point), or affects the
/// display order of those around it (Bidi_Control).
pub fn is_hidden(c: char) -> bool {
    !c.is_ascii()
        && (CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
            || CodePointSetData::new::<BidiControl>().contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_spellings_fold_to_the_same_text() {
        for (one, other) in [
            ("alice", "ALICE"),
            ("J\u{fc}rgen", "ju\u{308}RGEN"),
            ("Stra\u{df}e", "STRASSE"),
            ("\u{3a3}\u{391}\u{3a3}", "\u{3c3}\u{3b1}\u{3c2}"),
            ("\u{212b}ngstr\u{f6}m", "a\u{30a}ngstro\u{308}m"),
            ("\u{1e9b}\u{323}", "\u{1e69}"),
        ] {
            assert_eq!(folded(one), folded(other), "{one:?} {other:?}");
            assert_eq!(folded(&folded(one)), folded(one), "{one:?}");
        }
        for (one, other) in [("alice", "alicf"), ("a b", "a_b"), ("\u{e4}", "a"), ("\u{430}", "a")] {
            assert_ne!(folded(one), folded(other), "{one:?} {other:?}");
        }
    }

    #[test]
    fn invisible_characters_are_hidden() {
        for c in [
            '\u{AD}',
            '\u{34F}',
            '\u{61C}',
            '\u{115F}',
            '\u{180E}',
            '\u{200B}',
            '\u{202E}',
            '\u{2066}',
            '\u{3164}',
            '\u{FE0F}',
            '\u{FEFF}',
            '\u{FFA0}',
            '\u{E0041}',
            '\u{E0100}',
        ] {
            assert!(is_hidden(c), "{c:?}");
        }
        for c in ['a', '_', '-', '\u{fc}', '\u{301}', '\u{3b1}', '\u{5d0}', '\u{4e2d}', '\u{1F600}'] {
            assert!(!is_hidden(c), "{c:?}");
        }
    }
}
