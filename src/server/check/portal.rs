//! Checks the portal: its pages, its programs, and how people sign in.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::check::apache::Own;
use crate::check::rights::{self, WEB_USER};
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::config;
use crate::server::endpoints::ENDPOINTS;
use crate::template::page;

/// The page templates. Each is checked together with the layout.
const PAGES: [&str; 17] = [
    "list.html",
    "deploy.html",
    "show.html",
    "console.html",
    "extend.html",
    "terminate.html",
    "power.html",
    "admin.html",
    "history.html",
    "resize.html",
    "snapshots.html",
    "snapshot.html",
    "as-new.html",
    "save.html",
    "images.html",
    "image.html",
    "error.html",
];

/// The folder of the programs that Apache runs.
const PROGRAMS: &str = "/usr/lib/vgrid/cgi-bin";

/// The file in which Apache looks up how people sign in.
const SIGN_IN: &str = "/usr/lib/vgrid/cgi-bin/user/.htaccess";

/// Checks that people can sign in.
pub fn sign_in(dir: &Path) -> Verdict<()> {
    let file = dir.join("htaccess");
    let choose = format!("cp {0}/htaccess.basic {0}/htaccess, and see INSTALL.md", dir.display());
    let text = std::fs::read_to_string(&file)
        .map_err(|error| format!("{}: {}", file.display(), rights::describe(&error)))
        .with_remedy(&choose)?;
    let directives = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    if !directives().any(|line| line.starts_with("Require")) {
        return Err(Problem::new(
            format!("{} has no Require line: nobody can sign in", file.display()),
            choose,
        ));
    }
    let (Ok(linked), Ok(meant)) = (Path::new(SIGN_IN).canonicalize(), file.canonicalize()) else {
        return Err(Problem::new(
            format!("{SIGN_IN} is not there: nobody can sign in"),
            format!("ln -sfn {} {SIGN_IN}", file.display()),
        ));
    };
    if linked != meant {
        return Err(Problem::new(
            format!("{SIGN_IN} is not {}", file.display()),
            format!("ln -sfn {} {SIGN_IN}", file.display()),
        ));
    }
    let users = directives().find_map(|line| line.strip_prefix("AuthUserFile"));
    let Some(users) = users.map(|rest| Path::new(rest.trim().trim_matches('"'))) else {
        return Ok(Finding::passed((), file.display()));
    };
    let make = format!("htpasswd -B -c {} NAME", users.display());
    let known = std::fs::read_to_string(users)
        .map_err(|error| format!("{}: {}", users.display(), rights::describe(&error)))
        .with_remedy(&make)?;
    let count = known.lines().filter(|line| line.contains(':')).count();
    if count == 0 {
        return Err(Problem::new(format!("{} knows nobody", users.display()), make));
    }
    if !rights::web_user_reads(users) {
        return Err(Problem::new(
            format!("{WEB_USER} can't read {}", users.display()),
            format!("chown root:{WEB_USER} {0} && chmod 640 {0}", users.display()),
        ));
    }
    Ok(Finding::passed((), format!("{count} people have a password")))
}

/// Checks that every page's template is valid.
pub fn templates(server: &config::Server) -> Verdict<()> {
    let dir = &server.general.template_directory;
    for name in PAGES {
        page::check(dir, name)
            .with_remedy("make install PARTS=server, or mend templateDirectory in server.cfg")?;
    }
    Ok(Finding::passed((), dir.display()))
}

/// Checks that every program is there and that only root can change it. Requesting a page would not
/// show that: Apache turns away callers who have not signed in before it looks for the program.
pub fn programs() -> Verdict<()> {
    let install = "make install PARTS=server";
    let names = ENDPOINTS.iter().map(|endpoint| endpoint.name);
    for name in names {
        let path = Path::new(PROGRAMS).join(name);
        let facts = rights::facts(&path, install)?;
        if !facts.is_file() || !rights::is_roots_alone(&facts) || facts.mode() & 0o111 != 0o111 {
            return Err(Problem::new(
                format!("{} is no program that is root's alone", path.display()),
                format!("chown root {0} && chmod 755 {0}", path.display()),
            ));
        }
    }
    Ok(Finding::passed((), PROGRAMS))
}

/// Checks that every page asks for a sign-in, and that the nodes' endpoint refuses strangers.
pub fn answers(own: &Own<'_>) -> Verdict<()> {
    let mut statuses = Vec::new();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.name.starts_with("user/")) {
        let answer = own.ask(endpoint.name, false)?;
        if !matches!(answer.status, 301..=308 | 401 | 403) {
            return Err(Problem::new(
                format!("{} answers HTTP {} to somebody who has not signed in", endpoint.name, answer.status),
                "a2enmod cgid, see htaccess in the configuration, and: systemctl restart apache2",
            ));
        }
        statuses.push(answer.status.to_string());
    }
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.name.starts_with("internal/")) {
        own.must_refuse(endpoint.name, true)?;
    }
    statuses.dedup();
    Ok(Finding::passed((), format!("strangers are sent to sign in (HTTP {})", statuses.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_checked() {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/templates"));
        let mut files: Vec<String> = std::fs::read_dir(dir.join("page"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "layout.html")
            .collect();
        files.sort();
        let mut pages = PAGES.to_vec();
        pages.sort_unstable();
        assert_eq!(files, pages);
        for name in PAGES {
            page::check(dir, name).unwrap();
        }
    }
}
