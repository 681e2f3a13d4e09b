//! The rules for the crate's structure, checked against its source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::endpoints;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// All Rust files below a folder, by path from the crate's root, as code without comments and
/// string contents.
fn code_below(folder: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(ROOT).expect("below the root").display().to_string();
                files.insert(name, bare(&fs::read_to_string(&path).expect("a source file")));
            }
        }
    }
    files
}

/// Code without comments and string contents.
fn bare(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest = &rest[rest.find("\"'").map_or(rest.len(), |at| at + 2)..];
        } else if rest.starts_with("r#\"") {
            rest = &rest[rest.find("\"#").map_or(rest.len(), |at| at + 2)..];
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = &rest[end.map_or(rest.len(), |at| at + 2)..];
            out.push_str("\"\"");
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// The top-level modules that code names, by `crate::…` or `vgrid::…`.
fn imports(code: &str) -> BTreeSet<String> {
    ["crate::", "vgrid::"].into_iter().flat_map(|root| named_below(code, root)).collect()
}

/// The names right below a path in code, single or in braces.
fn named_below(code: &str, path: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    for (at, _) in code.match_indices(path) {
        let after = &code[at + path.len()..];
        if let Some(list) = after.strip_prefix('{') {
            // One level of braces at a time: `use crate::{a::{b, c}, d}`.
            let mut depth = 0;
            let mut item = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.insert(word(item.trim()));
                        item.clear();
                    }
                    c if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            found.insert(word(item.trim()));
        } else {
            found.insert(word(after));
        }
    }
    found.remove("");
    found
}

/// The paths that code names from the crate's root, given the path of its own module: those in `use`,
/// with their braces resolved, and others that begin with `crate`, `super` or `self`.
fn paths(code: &str, module: &[&str]) -> BTreeSet<String> {
    let imports = code.split("use ").skip(1).filter_map(|rest| rest.split(';').next());
    let mut named: Vec<String> = imports.flat_map(|tree| leaves("", tree)).collect();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
            let path: String = code[at..].chars().take_while(|c| is_path(*c)).collect();
            named.push(path.trim_end_matches(':').to_owned());
        }
    }
    let absolute = |path: String| {
        let mut base = module.to_vec();
        let mut steps: Vec<&str> = path.split("::").map(str::trim).collect();
        match steps[0] {
            "crate" => base.clear(),
            "self" | "super" => {}
            _ => steps.insert(0, "self"),
        }
        for step in &steps {
            if *step == "super" {
                base.pop();
            }
        }
        base.extend(steps.into_iter().filter(|step| !matches!(*step, "crate" | "self" | "super")));
        base.join("::")
    };
    named.into_iter().map(absolute).collect()
}

/// The paths of a tree of imports such as `a::{b, c::{d, e}}`.
fn leaves(prefix: &str, tree: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    let ends = tree.char_indices().chain([(tree.len(), ',')]);
    for (at, c) in ends {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = tree[start..at].trim();
                start = at + 1;
                match item.split_once('{') {
                    Some((path, list)) => {
                        let list = list.strip_suffix('}').unwrap_or(list);
                        found.extend(leaves(&format!("{prefix}{path}"), list));
                    }
                    None if item.is_empty() => {}
                    None => {
                        let path = item.split_once(" as ").map_or(item, |(path, _)| path);
                        found.push(format!("{prefix}{path}"));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn imports_go_down_only() {
    let allowed = |file: &str| -> &[&str] {
        let top = file.strip_prefix("src/").and_then(|f| f.split(['/', '.']).next()).unwrap_or_default();
        match top {
            "lib" => &["cgi", "check", "config", "model", "node", "remote", "server", "system", "template"],
            "model" => &["model"],
            "config" | "template" | "remote" | "system" | "cgi" => {
                &["model", "config", "template", "remote", "system", "cgi", "VERSION"]
            }
            "check" => &["model", "config", "remote", "system", "check"],
            "server" => {
                &["model", "config", "template", "remote", "system", "cgi", "check", "server", "VERSION"]
            }
            "node" => &["model", "config", "template", "remote", "system", "cgi", "check", "node", "VERSION"],
            other => panic!("src/{other} has no layer; give it one here"),
        }
    };
    for (file, code) in code_below("src") {
        let upwards: Vec<String> =
            imports(&code).into_iter().filter(|name| !allowed(&file).contains(&name.as_str())).collect();
        assert!(upwards.is_empty(), "{file} must not import {upwards:?}");
        // The check above would miss a path that leaves a layer by `super`.
        let depth = file.matches('/').count();
        assert!(!code.contains(&"super::".repeat(depth + 1)), "{file} leaves its layer by super::");
    }
}

/// The modules of one half of the crate, top level first. Each may import those of later levels,
/// and on its own level only itself.
type Levels = [&'static [&'static str]];

const SERVER: &Levels = &[
    &["check"],
    &["endpoints"],
    &["pages", "internal", "keeping", "upkeep"],
    &["orphans", "closing"],
    &["machine"],
    &["nodes", "mail"],
    &["audit"],
    &["registry"],
];

/// What the pages share; all other files there are pages.
const SHARED: [&str; 6] = ["access", "naming", "once", "target", "unchanged", "view"];

const NODE: &Levels = &[
    &["check"],
    &["endpoints", "worker"],
    &["privileged", "report"],
    &["helper"],
    &["host"],
    &["jobs"],
    &["hypervisor"],
    &["image", "filesystem", "storage", "seed"],
    &["trust"],
    &["files"],
];

/// Asserts that the modules of a half import only from below.
fn assert_levels(half: &str, levels: &Levels) {
    let level = |module: &str| levels.iter().position(|modules| modules.contains(&module));
    let folder = format!("src/{half}/");
    let files = code_below(&folder);
    let module_of = |file: &str| -> String {
        file.trim_start_matches(&folder).split(['/', '.']).next().unwrap_or_default().to_owned()
    };
    let modules: BTreeSet<String> = files.keys().map(|file| module_of(file)).collect();
    for (file, code) in &files {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let module = module_of(file);
        if module == "mod" {
            continue;
        }
        let own = level(&module).unwrap_or_else(|| panic!("{file} has no level; give it one here"));
        let mut known = named_below(code, &format!("crate::{half}::"));
        // `super` means the half in the only file of a module and in its `mod.rs`, and the module
        // elsewhere.
        let below = file.trim_start_matches(&folder);
        if !below.contains('/') || below == format!("{module}/mod.rs") {
            known.extend(named_below(code, "super::"));
        }
        assert!(!code.contains("super::super::"), "{file} leaves its layer by super::");
        // Constants and functions of the half itself are ignored.
        for known in known.intersection(&modules) {
            let its = level(known).unwrap_or_else(|| panic!("{file} names {known}, which has no level"));
            assert!(*known == module || its > own, "{file} must not import {known}");
        }
    }
}

#[test]
fn server_modules_import_only_from_below() {
    assert_levels("server", SERVER);
    for (file, code) in code_below("src/server/machine") {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        assert!(!imports(code).contains("cgi"), "{file} uses CGI");
    }
}

#[test]
fn node_modules_import_only_from_below() {
    assert_levels("node", NODE);
    for (file, code) in code_below("src/node") {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let module = file.trim_start_matches("src/node/").split(['/', '.']).next().unwrap_or_default();
        let may_use_cgi = ["endpoints", "check"].contains(&module);
        assert!(may_use_cgi || !imports(code).contains("cgi"), "{file} uses CGI");
        // It runs as root and must not trust what the others wrote.
        let known = named_below(code, "crate::node::");
        let kept_by_others = known.contains("jobs") || code.contains("image::store");
        assert!(module != "helper" || !kept_by_others, "{file} uses records or saved images");
    }
}

#[test]
fn no_node_endpoint_imports_another() {
    for (file, code) in code_below("src/node/endpoints") {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let name = file.trim_start_matches("src/node/endpoints/").trim_end_matches(".rs");
        if name == "mod" {
            continue;
        }
        let mut known = named_below(code, "node::endpoints::");
        known.extend(named_below(code, "super::"));
        for other in known {
            let is_endpoint = vgrid::node::endpoints::ENDPOINTS
                .iter()
                .any(|endpoint| endpoint.name == format!("node/{other}"));
            assert!(!is_endpoint && other != "power", "{file} must not import {other}");
        }
    }
}

#[test]
fn no_page_imports_another() {
    for (file, code) in code_below("src/server/pages") {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let below = file.trim_start_matches("src/server/pages/");
        let name = below.split(['/', '.']).next().unwrap_or_default();
        if name == "mod" {
            continue;
        }
        let mut known = named_below(code, "server::pages::");
        if !below.contains('/') {
            known.extend(named_below(code, "super::"));
        }
        for other in known {
            assert!(other == name || SHARED.contains(&other.as_str()), "{file} must not import {other}");
        }
    }
}

/// The modules of a folder, by what each of them uses of the others. A `mod.rs` is the folder itself:
/// it may use its files, and they may use what it defines.
fn uses_within(folder: &[&str], files: &BTreeMap<Vec<String>, String>) -> BTreeMap<String, BTreeSet<String>> {
    let below = files.iter().filter(|(module, _)| {
        module.len() > folder.len() && folder.iter().zip(module.iter()).all(|(one, other)| one == other)
    });
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, code) in below {
        let own = &module[folder.len()];
        let module: Vec<&str> = module.iter().map(String::as_str).collect();
        let within: Vec<String> = paths(code, &module)
            .iter()
            .map(|path| path.split("::").map(str::to_owned).collect::<Vec<_>>())
            .filter(|path| {
                path.len() > folder.len() && folder.iter().zip(path).all(|(one, other)| one == other)
            })
            .map(|path| path[folder.len()].clone())
            .filter(|other| other != own)
            .collect();
        uses.entry(own.clone()).or_default().extend(within);
    }
    uses
}

#[test]
fn no_files_of_a_folder_import_each_other() {
    let files: BTreeMap<Vec<String>, String> = code_below("src")
        .into_iter()
        .map(|(file, code)| {
            let path = file.trim_start_matches("src/").trim_end_matches(".rs");
            let path = path.trim_end_matches("/mod").trim_end_matches("lib");
            let module = path.split('/').filter(|step| !step.is_empty()).map(str::to_owned).collect();
            (module, code.split("#[cfg(test)]").next().unwrap_or_default().to_owned())
        })
        .collect();
    let folders: BTreeSet<&[String]> =
        files.keys().filter_map(|module| module.split_last().map(|(_, folder)| folder)).collect();
    assert!(folders.len() > 20, "{folders:?}");
    for folder in folders {
        let folder: Vec<&str> = folder.iter().map(String::as_str).collect();
        let mut uses = uses_within(&folder, &files);
        // What uses nothing or is used by nothing is in no circle. What is left without that, too.
        loop {
            let before = uses.len();
            let used: BTreeSet<String> = uses.values().flatten().cloned().collect();
            let left: BTreeSet<String> = uses.keys().filter(|name| used.contains(*name)).cloned().collect();
            uses.retain(|name, others| {
                others.retain(|other| left.contains(other));
                left.contains(name) && !others.is_empty()
            });
            if uses.len() == before {
                break;
            }
        }
        assert!(uses.is_empty(), "in {folder:?} these import each other: {uses:#?}");
    }
}

#[test]
fn a_tree_of_imports_is_read_as_its_paths() {
    let code = "use crate::a::{self, b::{c, d as e}};\nuse super::f;\nfn g() { self::h::i(); crate::j::k() }";
    let expected = ["a", "a::b::c", "a::b::d", "j::k", "x::f", "x::y::h::i"];
    assert_eq!(paths(code, &["x", "y"]).iter().collect::<Vec<_>>(), expected);
}

#[test]
fn each_program_uses_only_its_own_half() {
    for (file, code) in code_below("bin") {
        let names = imports(&code);
        let (half, other) = match file.split('/').nth(1) {
            Some("node") => ("node", "server"),
            Some("user" | "internal" | "cron") => ("server", "node"),
            _ => continue,
        };
        assert!(names.contains(half), "{file} uses nothing of {half}: {names:?}");
        assert!(!names.contains(other), "{file} uses {other}");
    }
}

/// The most lines of code in a file, without comments, empty lines and tests.
const LONGEST: usize = 400;

/// Longer files, each with the reason. There may be three.
const LONGER: &[(&str, &str)] = &[];

#[test]
fn files_are_short() {
    assert!(LONGER.len() <= 3);
    for (file, code) in code_below("src") {
        // `bare` leaves the line of a comment empty.
        let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        let is_excused = LONGER.iter().any(|(known, _)| *known == file);
        assert!(lines <= LONGEST || is_excused, "{file} has {lines} lines of code: split it");
    }
}

#[test]
fn only_life_changes_a_machine() {
    for (file, code) in code_below("src/server") {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let is_for_tests = file == "src/server/machine/fixture.rs";
        let edits = code.contains("&mut Vm") && !is_for_tests;
        assert!(!edits || file == "src/server/machine/life.rs", "{file} changes a machine");
    }
}

#[test]
fn every_tool_has_one_place() {
    let rules: [(&[&str], &[&str]); 6] = [
        (&["rusqlite"], &["src/server/registry"]),
        (&["Command::new", "process::Command", "posix_spawn", "execv", "fork("], &["src/system/"]),
        (&["ureq"], &["src/remote.rs"]),
        (&["tera::", "use tera"], &["src/template.rs"]),
        (&["lettre"], &["src/server/mail"]),
        (&["TcpStream", "TcpListener"], &["src/remote.rs"]),
    ];
    let mut files = code_below("src");
    files.extend(code_below("bin"));
    for (file, code) in files {
        // Unit tests may play the other side.
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        for (words, places) in rules {
            for word in words {
                let found = code.contains(word);
                assert!(
                    !found || places.iter().any(|p| file.starts_with(p)),
                    "{file} uses {word}: see {places:?}"
                );
            }
        }
    }
}

#[test]
fn only_the_administration_page_removes_orphans() {
    let callers = |words: &[&str]| -> Vec<String> {
        let mut files = code_below("src/server");
        files.extend(code_below("bin"));
        files.retain(|_, code| words.iter().any(|word| code.contains(word)));
        files.into_keys().collect()
    };
    assert_eq!(callers(&["orphans::remove", "orphans::*"]), ["src/server/pages/admin/mod.rs"]);
    assert_eq!(callers(&[".discard("]), ["src/server/orphans/mod.rs"]);
}

#[test]
fn programs_hold_no_logic() {
    for (file, code) in code_below("bin") {
        let (folder, name) = file.trim_start_matches("bin/").split_once('/').expect("a folder of programs");
        let half = if folder == "node" { "node" } else { "server" };
        if matches!(folder, "user" | "internal" | "node") && !matches!(name, "helper.rs" | "worker.rs") {
            let row = name.trim_end_matches(".rs").to_uppercase();
            let expected = format!("fn main() {{ vgrid::{half}::endpoints::{row}.serve(); }}");
            let found: Vec<&str> = code.split_whitespace().collect();
            assert_eq!(found.join(" "), expected, "{file} serves another endpoint, or does more");
        }
        let source = fs::read_to_string(Path::new(ROOT).join(&file)).expect("a program");
        assert!(source.starts_with("//! "), "{file} does not say what it is");
    }
}

/// The cargo name of a program in `bin/`.
fn cargo_name(folder: &str, name: &str) -> String {
    match (folder, name) {
        // Started by vGrid and sudo, never by Apache.
        ("node", "helper" | "worker") => format!("vgrid-{name}"),
        // Commands for people and cron.
        ("cli" | "cron", name) => format!("vgrid-{name}"),
        (folder, name) => format!("{folder}-{name}"),
    }
}

#[derive(Debug)]
struct Bin {
    path: String,
    features: Vec<String>,
}

fn bins() -> BTreeMap<String, Bin> {
    let text = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).expect("Cargo.toml");
    let manifest: toml::Table = text.parse().expect("Cargo.toml is TOML");
    let bins = manifest["bin"].as_array().expect("[[bin]]");
    let text = |bin: &toml::Value, key: &str| bin.get(key).and_then(|v| v.as_str()).unwrap_or("").to_owned();
    bins.iter()
        .map(|bin| {
            let features =
                bin.get("required-features").and_then(|v| v.as_array()).cloned().unwrap_or_default();
            let features = features.iter().filter_map(|f| f.as_str()).map(str::to_owned).collect();
            (text(bin, "name"), Bin { path: text(bin, "path"), features })
        })
        .collect()
}

#[test]
fn the_path_in_bin_is_the_path_in_the_url() {
    let mut known = bins();
    for file in code_below("bin").into_keys() {
        let parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
        let [_, folder, name] = parts[..] else { panic!("{file} is too deep") };
        let cargo = cargo_name(folder, name);
        let bin =
            known.remove(&cargo).unwrap_or_else(|| panic!("Cargo.toml has no [[bin]] {cargo} for {file}"));
        assert_eq!(bin.path, file);
        let wanted: &[&str] = match folder {
            "user" | "internal" | "cron" => &["server"],
            "node" => &["node"],
            _ => continue,
        };
        assert_eq!(bin.features, wanted, "required-features of {cargo}");
    }
    assert!(known.is_empty(), "Cargo.toml has programs that bin/ lacks: {:?}", known.keys());
}

#[test]
fn endpoints_and_programs_match() {
    let endpoints: BTreeSet<String> = endpoints().map(|e| e.name.to_owned()).collect();
    let programs: BTreeSet<String> = code_below("bin")
        .into_keys()
        .filter_map(|file| file.strip_prefix("bin/")?.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| ["user/", "internal/", "node/"].iter().any(|folder| name.starts_with(folder)))
        .filter(|name| !matches!(name.as_str(), "node/helper" | "node/worker"))
        .collect();
    assert_eq!(endpoints, programs);
}

#[test]
fn make_installs_every_program_where_apache_looks() {
    let stage = crate::support::stage::Stage::shared();
    let installed = |path: PathBuf| assert!(path.is_file(), "not installed: {}", path.display());
    for file in code_below("bin").into_keys() {
        let parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
        match parts[..] {
            [_, "node", name @ ("helper" | "worker")] => {
                installed(stage.path(&format!("/usr/lib/vgrid/vgrid-{name}")));
            }
            [_, folder @ ("user" | "internal" | "node"), name] => {
                installed(stage.path(&format!("/usr/lib/vgrid/cgi-bin/{folder}/{name}")));
            }
            [_, "cli", name] => installed(stage.path(&format!("/usr/bin/vgrid-{name}"))),
            [_, "cron", name] => {
                let crontab = fs::read_to_string(stage.path("/etc/cron.d/vgrid")).expect("the crontab");
                assert!(crontab.contains(&format!(" /usr/bin/vgrid-{name} ")), "{crontab}");
                installed(stage.path(&format!("/usr/bin/vgrid-{name}")));
            }
            _ => panic!("where does {file} go?"),
        }
    }
    installed(stage.path("/usr/lib/vgrid/vgrid-pvgrub"));
    installed(stage.path("/usr/lib/vgrid/vgrid-pcgrub"));
    for entry in fs::read_dir(stage.path("/etc/vgrid/vmtmpl")).expect("templates") {
        let name = entry.expect("a template").file_name();
        assert!(Path::new(ROOT).join("vmtmpl").join(name).is_file());
    }
}

fn cargo_tree(half: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .current_dir(ROOT)
        .args(["tree", "--locked", "--offline", "--edges=normal,build", "--prefix=none"])
        .args(["--no-default-features", "--features", half])
        .output()
        .expect("cargo can be started");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).expect("UTF-8");
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn each_half_builds_without_the_other() {
    let node = cargo_tree("node");
    for sql_or_mail in ["rusqlite", "libsqlite3-sys", "lettre"] {
        assert!(!node.contains(sql_or_mail), "the node part depends on {sql_or_mail}");
    }
    let server = cargo_tree("server");
    for of_images in ["flate2", "liblzma", "liblzma-sys", "zstd", "zstd-sys", "tar"] {
        assert!(!server.contains(of_images), "the server part depends on {of_images}");
    }
    // The same in the crate's own source: features switch the modules of the halves.
    let lib = bare(&fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).expect("src/lib.rs"));
    let lines: Vec<&str> = lib.lines().map(str::trim).collect();
    for half in ["node", "server"] {
        let at = lines.iter().position(|line| *line == format!("pub mod {half};")).expect("the module");
        assert!(lines[at - 1].starts_with("#[cfg(feature ="), "mod {half} is always compiled");
    }
    let mut outside = code_below("src");
    outside.retain(|file, _| !file.starts_with("src/server/") && !file.starts_with("src/node/"));
    for (file, code) in outside {
        assert!(!code.contains("include!") && !code.contains("#[path"), "{file} includes other files");
    }
}
