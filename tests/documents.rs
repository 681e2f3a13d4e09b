//! Parts of documents that are made from the source.
//!
//! To write them again: `VGRID_DOCUMENTS=write cargo test --test integration documents`. The tests
//! then fail, to show that they compared nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use vgrid::cgi::policy::Role;
use vgrid::server::endpoints::ENDPOINTS;

fn path(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// What the table of the server's endpoints says about each, by path, on one line.
fn descriptions() -> BTreeMap<String, String> {
    let source = fs::read_to_string(path("src/server/endpoints.rs")).expect("the table");
    let (mut described, mut lines) = (BTreeMap::new(), Vec::new());
    for line in source.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("/// ") {
            lines.push(doc);
        } else if let Some(path) = line.split('"').nth(1) {
            described.insert(path.to_owned(), lines.join(" "));
            lines.clear();
        }
    }
    described
}

/// A sentence as the text of a cell: `Shows it.` becomes `shows it`.
fn cell(sentence: &str) -> String {
    let mut letters = sentence.trim_end_matches('.').chars();
    letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

/// The table of URLs for users: those of administrators are in ADMIN.md.
fn urls() -> String {
    let described = descriptions();
    let mut table = "| | |\n| --- | --- |\n".to_owned();
    for endpoint in ENDPOINTS {
        let query = match endpoint.role {
            Role::User => "",
            Role::Owner => "?id=…",
            Role::Administrator | Role::Server | Role::Node => continue,
        };
        let name = endpoint.name;
        let text = cell(&described[name]);
        assert!(text.len() > 10 && !text.contains('|'), "{name}: {text}");
        table.push_str(&format!("| `{name}{query}` | {text} |\n"));
    }
    table
}

#[test]
fn the_readme_lists_every_url_for_users() {
    let file = path("README.md");
    let readme = fs::read_to_string(&file).expect("README.md");
    // The only table without a heading.
    let start = readme.find("| | |\n").expect("the table of URLs");
    let end = start + readme[start..].find("\n\n").expect("text after it") + 1;
    let table = urls();
    if std::env::var("VGRID_DOCUMENTS").is_ok_and(|what| what == "write") {
        fs::write(&file, format!("{}{table}{}", &readme[..start], &readme[end..])).expect("README.md");
        panic!("README.md was written");
    }
    assert_eq!(readme[start..end], table, "see the top of tests/documents.rs");
}
