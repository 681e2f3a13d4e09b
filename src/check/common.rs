//! Checks common to the server and the nodes: configuration, host names, key, Apache.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};

use super::apache::{self, Includes};
use super::rights::{self, WEB_USER};
use super::{Cause, Checks, Fact, Finding, Problem, WithRemedy as _};
use crate::config::{self, Common, ConfigError};
use crate::model::lease::Moment;
use crate::model::names::VirtualHost;
use crate::model::sign::MAX_SKEW;
use crate::system::address;

/// The basis of all other checks.
#[derive(Debug)]
pub struct Basis {
    /// The configuration directory.
    pub dir: PathBuf,
    /// The URL of this host's own Apache, without a path.
    pub own_url: String,
    /// `common.cfg`.
    pub common: Fact<Common>,
    /// `server.cfg`, if the server part is checked.
    pub server: Fact<config::Server>,
    /// `node.cfg`, if the node part is checked.
    pub node: Fact<config::Node>,
    /// The virtual hosts that have a usable IPv4 address.
    pub names: Fact<Vec<(VirtualHost, Ipv4Addr)>>,
    /// The web server's user.
    pub web: Fact<User>,
    /// Known if there is a usable key.
    pub key: Fact<()>,
    /// Apache's configuration files.
    pub includes: Fact<Includes>,
}

/// The parts to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The server part: the portal.
    pub server: bool,
    /// The node part, for a host of the pool.
    pub node: bool,
}

impl Parts {
    /// Returns the parts whose configuration file exists.
    pub fn installed(dir: &Path) -> Self {
        Self { server: dir.join("server.cfg").exists(), node: dir.join("node.cfg").exists() }
    }
}

fn unusable(error: &ConfigError) -> Problem {
    let remedy = match error {
        ConfigError::Unreadable { file, source } if source.kind() == std::io::ErrorKind::NotFound => {
            format!("make install puts an example there: {}", file.display())
        }
        ConfigError::Unreadable { file, .. } => format!("chmod 644 {}", file.display()),
        ConfigError::OldSyntax { file } => format!("vgrid-config-convert --in-place {}", file.display()),
        ConfigError::Syntax { file, .. }
        | ConfigError::UnknownKey { file, .. }
        | ConfigError::Value { file, .. } => format!("edit {}", file.display()),
    };
    Problem::new(error, remedy)
}

fn unchosen<T>(name: &'static str) -> Fact<T> {
    Fact::Unknown(Cause::Needs(name))
}

/// Runs the checks common to both parts.
pub fn run(checks: &mut Checks, dir: &Path, own_url: &str, parts: Parts) -> Basis {
    let here = Fact::Known(());
    let common = checks.check("common.cfg", here, |()| {
        let common = Common::load(dir).map_err(|error| unusable(&error))?;
        for (section, empty) in [
            ("VMImages", common.images.is_empty()),
            ("PhysicalHostsPool", common.physical_hosts.is_empty()),
            ("VirtualHostsPool", common.virtual_hosts.is_empty()),
        ] {
            if empty {
                let file = dir.join("common.cfg");
                return Err(Problem::new(
                    format!("{}: [{section}] is empty", file.display()),
                    format!("edit {}", file.display()),
                ));
            }
        }
        let note = format!(
            "images: {}, hosts: {}, names: {}, digest {}",
            common.images.len(),
            common.physical_hosts.len(),
            common.virtual_hosts.len(),
            common.digest
        );
        Ok(Finding::passed(common, note))
    });
    let server = if parts.server {
        checks.check("server.cfg", here, |()| {
            let server = config::Server::load(dir).map_err(|error| unusable(&error))?;
            Ok(Finding::passed(server, "can be read"))
        })
    } else {
        unchosen("server.cfg")
    };
    let node = if parts.node {
        checks.check("node.cfg", here, |()| {
            let node = config::Node::load(dir).map_err(|error| unusable(&error))?;
            Ok(Finding::passed(node, "can be read"))
        })
    } else {
        unchosen("node.cfg")
    };
    let keys = key_files(&server, &node);
    checks.check("configuration's rights", here, |()| roots_alone(dir, &keys));
    let names = checks.check("machines' names", common.as_ref(), |common| Ok(machine_names(common)));
    let web = checks.check("web server's user", here, |()| {
        match User::from_name(WEB_USER).with_remedy("mend /etc/nsswitch.conf")? {
            Some(user) => Ok(Finding::passed(user, WEB_USER)),
            None => Err(Problem::new(format!("there is no user {WEB_USER}"), "apt-get install apache2")),
        }
    });
    let files = match &keys[..] {
        [] if parts.server => unchosen("server.cfg"),
        [] => unchosen("node.cfg"),
        keys => Fact::Known(keys),
    };
    let key = checks.check_as_root("key", files, |files| {
        let keys =
            [server.as_ref().known().map(config::Server::key), node.as_ref().known().map(config::Node::key)];
        for key in keys.into_iter().flatten() {
            key.with_remedy(format!(
                "on one machine: openssl rand -hex 32 | install -o root -g {WEB_USER} -m 640 /dev/stdin {0}; \
                 then copy {0} to all others",
                files[0].display()
            ))?;
        }
        Ok(Finding::passed((), "long enough"))
    });
    checks.check("key's rights", files.and(web.as_ref()).and(key), |((files, web), ())| {
        files.iter().try_for_each(|file| key_rights(file, web))?;
        Ok(Finding::passed((), format!("root:{WEB_USER}, nobody else reads it")))
    });
    let includes = apache::run(checks);
    Basis {
        dir: dir.to_owned(),
        own_url: own_url.to_owned(),
        common,
        server,
        node,
        names,
        web,
        key,
        includes,
    }
}

/// Returns the key files of the parts whose configuration is known, without duplicates.
fn key_files(server: &Fact<config::Server>, node: &Fact<config::Node>) -> Vec<PathBuf> {
    let server = server.as_ref().known().map(|server| server.general.key_file.clone());
    let node = node.as_ref().known().map(|node| node.general.key_file.clone());
    let mut files: Vec<PathBuf> = server.into_iter().chain(node).collect();
    files.dedup();
    files
}

/// Checks that only root can change the directory and everything in it except the keys, which have
/// a check of their own.
fn roots_alone(dir: &Path, keys: &[PathBuf]) -> super::Verdict<()> {
    let mut problems = Vec::new();
    let mut seen = 0;
    let mut look = vec![dir.to_owned()];
    while let Some(path) = look.pop() {
        let facts = rights::facts(&path, "make install")?;
        if keys.contains(&path) {
            continue;
        }
        if facts.is_symlink() {
            // The targets of symlinks are checked by whatever uses them.
            continue;
        }
        seen += 1;
        if !rights::is_roots_alone(&facts) {
            problems.push(Problem::new(
                format!("others than root can change {}", path.display()),
                format!("chown root {0} && chmod go-w {0}", path.display()),
            ));
        }
        if facts.is_dir() {
            let entries = std::fs::read_dir(&path)
                .map_err(|error| format!("{}: {error}", path.display()))
                .with_remedy(format!("chmod 755 {}", path.display()))?;
            look.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
    }
    Ok(Finding::partial(Some(()), format!("{seen} files and folders are root's alone"), problems))
}

fn machine_names(common: &Common) -> Finding<Vec<(VirtualHost, Ipv4Addr)>> {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    let mut owners: BTreeMap<Ipv4Addr, &VirtualHost> = BTreeMap::new();
    for (host, _) in &common.virtual_hosts {
        let Some(ip) = address::ipv4(host.as_str()) else {
            problems.push(Problem::new(
                format!("{host} has no IPv4 address"),
                "enter it in the DNS or in /etc/hosts, or take it out of [VirtualHostsPool] of common.cfg",
            ));
            continue;
        };
        if let Some(why) = address::unusable(ip) {
            let from =
                address::loopback_source(host.as_str()).map(|from| format!(" ({from})")).unwrap_or_default();
            problems.push(Problem::new(
                format!("{host} has the address {ip}{from}, which {why}"),
                "give it an address of its own, in the DNS or in /etc/hosts",
            ));
            continue;
        }
        if let Some(other) = owners.insert(ip, host) {
            problems.push(Problem::new(
                format!("{other} and {host} have the same address {ip}"),
                "give each its own, in the DNS or in /etc/hosts",
            ));
        }
        found.push((host.clone(), ip));
    }
    let note = format!("all {} have an address", found.len());
    Finding::partial((!found.is_empty()).then_some(found), note, problems)
}

fn key_rights(file: &Path, web: &User) -> Result<(), Problem> {
    let path = file.display();
    let facts = rights::facts(file, "make one, see INSTALL.md")?;
    let right = format!("chown root:{WEB_USER} {path} && chmod 640 {path}");
    let mode = facts.mode() & 0o7777;
    if mode & 0o137 != 0 || mode & 0o440 != 0o440 {
        return Err(Problem::new(format!("{path} has mode {mode:o}, not 640"), right));
    }
    if facts.uid() != 0 || facts.gid() != web.gid.as_raw() {
        let user =
            User::from_uid(facts.uid().into()).ok().flatten().map_or(facts.uid().to_string(), |u| u.name);
        let group =
            Group::from_gid(facts.gid().into()).ok().flatten().map_or(facts.gid().to_string(), |g| g.name);
        return Err(Problem::new(format!("{path} belongs to {user}:{group}, not to root:{WEB_USER}"), right));
    }
    Ok(())
}

/// Checks another host's clock by the `Date` of its response. A message whose signature appears
/// more than [`MAX_SKEW`] seconds old there is refused.
pub fn skew(who: &str, theirs: Moment, ours: Moment) -> Result<i64, Problem> {
    let skew = theirs.since(ours);
    if skew.abs() > MAX_SKEW {
        return Err(Problem::new(
            format!("the clock of {who} is {skew} s from this one; messages may be {MAX_SKEW} s old"),
            "apt-get install systemd-timesyncd && timedatectl set-ntp true, on both",
        ));
    }
    Ok(skew)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_the_allowed_skew() {
        let ours = Moment::from_http("Sun, 22 Nov 2026 09:05:00 GMT").unwrap();
        assert_eq!(ours.rfc3339(), "2026-11-22T09:05:00Z");
        assert_eq!(skew("a", ours.plus_seconds(MAX_SKEW), ours), Ok(MAX_SKEW));
        assert!(skew("a", ours.plus_seconds(MAX_SKEW + 1), ours).is_err());
        assert!(skew("a", ours.plus_seconds(-MAX_SKEW - 1), ours).is_err());
        assert_eq!(Moment::from_http("yesterday"), None);
    }
}
