//! `vgrid-check`: checks the installation of a server or of a host of the pool.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use vgrid::check::Checks;
use vgrid::check::common::{self, Parts};
use vgrid::config;
use vgrid::system::log;

/// Tells what is missing on a vGrid server or host: one line a check, and what to do where one failed.
///
/// Run it as root; some things nobody else can see. Nothing is changed. The configuration is that of
/// /etc/vgrid, or of the folder that VGRID_CONFIG_DIR names.
#[derive(Parser)]
// Each is a command line switch.
#[allow(clippy::struct_excessive_bools)]
#[command(
    name = "vgrid-check",
    version,
    after_help = "Exit status: 0 all is well, 1 something failed, 2 wrong usage or nothing to check."
)]
struct Args {
    /// Check the server part, even if server.cfg is missing
    #[cfg(feature = "server")]
    #[arg(long)]
    server: bool,
    /// Check the node part, even if node.cfg is missing
    #[cfg(feature = "node")]
    #[arg(long)]
    node: bool,
    /// Where this machine's own Apache answers, without a path
    #[arg(long, value_name = "URL", default_value = "http://localhost")]
    own_url: String,
    /// Print a JSON array of name, status (passed, failed, skipped), why and remedy
    #[arg(long)]
    json: bool,
    /// Print the names of the checks and make none
    #[arg(long)]
    list: bool,
}

impl Args {
    /// Returns the requested parts, or else the installed ones. A binary built with one half has no
    /// other.
    fn parts(&self, dir: &Path) -> Parts {
        let compiled = Parts { server: cfg!(feature = "server"), node: cfg!(feature = "node") };
        let mut asked = Parts { server: false, node: false };
        #[cfg(feature = "server")]
        {
            asked.server = self.server;
        }
        #[cfg(feature = "node")]
        {
            asked.node = self.node;
        }
        let wanted = if asked.server || asked.node { asked } else { Parts::installed(dir) };
        Parts { server: wanted.server && compiled.server, node: wanted.node && compiled.node }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let dir = config::directory();
    let parts = args.parts(&dir);
    if !(parts.server || parts.node) {
        let dir = dir.display();
        eprintln!(
            "vgrid-check: there is neither server.cfg nor node.cfg in {dir} that this program could check: \
             make install puts examples there; or say --server or --node"
        );
        return ExitCode::from(2);
    }
    let mut checks = Checks::new(args.list);
    // Discard the log if there is no syslog: root would create the portal's log file, and the
    // portal could not write to it.
    log::start("check", checks.request.clone(), Some(Path::new("/dev/null")));
    let ground = common::run(&mut checks, &dir, &args.own_url, parts);
    #[cfg(feature = "server")]
    if parts.server {
        vgrid::server::check::run(&mut checks, &ground);
    }
    #[cfg(feature = "node")]
    if parts.node {
        vgrid::node::check::run(&mut checks, &ground);
    }
    #[cfg(not(any(feature = "server", feature = "node")))]
    let _ = ground;
    let mut out = anstream::stdout().lock();
    let written = if args.list {
        checks.lines().iter().try_for_each(|line| writeln!(out, "{}", line.name))
    } else if args.json {
        checks.write_json(&mut out)
    } else {
        checks.write_text(&mut out)
    };
    // If the reader closes our output early (head), that is no error; the exit status still counts.
    if let Err(error) = written.and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("vgrid-check: {error}");
        return ExitCode::FAILURE;
    }
    if checks.none_failed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
