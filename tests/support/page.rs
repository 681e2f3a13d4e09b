//! What tests read from the portal's pages.

use super::http::Answer;

/// Asserts what holds for every answer of the portal itself: its headers, and that pages carry no
/// scripts or styles of their own.
#[track_caller]
pub fn assert_well_formed(answer: &Answer) {
    let policy = answer.header("content-security-policy").unwrap_or_else(|| panic!("no policy: {answer}"));
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer}");
    let kind = answer.header("content-type").unwrap_or_default();
    let text = answer.text();
    if kind.starts_with("text/html") {
        assert!(text.starts_with("<!doctype html>"), "{answer}");
        let inline = inline_code(&text);
        assert!(inline.is_empty(), "{inline:?} in {answer}");
        assert!(text.contains(">source code</a>"), "no link to the source: {answer}");
        assert!(text.contains("<title>") && text.contains("lang=\"en\""), "{answer}");
    } else if kind.starts_with("application/json") {
        answer.json();
    } else {
        assert!(kind.starts_with("text/plain"), "{answer}");
        assert!(!text.contains("</"), "markup in text: {answer}");
    }
}

/// Inline scripts and styles, which the page's policy would block.
fn inline_code(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for tag in page.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        let name = tag.split_whitespace().next().unwrap_or_default();
        if name == "style" || (name == "script" && !tag.contains(" src=")) {
            found.push(tag.to_owned());
        }
        // Attribute names, outside of quotes.
        let outside: String = tag.split('"').step_by(2).collect::<Vec<_>>().join(" ");
        for word in outside.split_whitespace().skip(1) {
            if word.starts_with("style=") || (word.starts_with("on") && word.contains('=')) {
                found.push(format!("<{name} {word}"));
            }
        }
        if tag.to_lowercase().contains("javascript:") {
            found.push(tag.to_owned());
        }
    }
    found
}

/// The value of a form's hidden field.
#[track_caller]
pub fn hidden_field(page: &str, name: &str) -> String {
    let value = page.split(&format!("name=\"{name}\" value=\"")).nth(1);
    let value = value.and_then(|rest| rest.split('"').next());
    value.unwrap_or_else(|| panic!("no {name} on {page}")).to_owned()
}

/// The token of the form on a page.
#[track_caller]
pub fn token(page: &Answer) -> String {
    hidden_field(&page.text(), "token")
}

/// The user name in a page's header.
#[track_caller]
pub fn user_on(page: &str) -> &str {
    let name = page.split("<span class=\"name\">").nth(1).and_then(|rest| rest.split('<').next());
    name.unwrap_or_else(|| panic!("no user name on {page}"))
}
