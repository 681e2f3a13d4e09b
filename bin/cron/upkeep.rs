//! `vgrid-upkeep`: runs every few minutes from cron as the web server's user, or by hand.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser;
use vgrid::config;
use vgrid::server::upkeep::{self, Outcome};

/// Keeps the portal's house: leases that end, mail that waits, hosts that were down, orders that were lost.
///
/// One run at a time: a second one says so and does nothing. It can be killed at any moment; the next run goes on. The
/// configuration is that of /etc/vgrid, or of the folder that VGRID_CONFIG_DIR names. Run it as the web server's user:
///   sudo -u www-data vgrid-upkeep
#[derive(Parser)]
#[command(
    name = "vgrid-upkeep",
    version,
    after_help = "Exit status: 0 done, or another one is at work; 1 something failed, 2 wrong usage."
)]
struct Args {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Say nothing unless something fails
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let shown = std::io::stderr().is_terminal() && !args.quiet;
    let output = match upkeep::run(&config::directory(), args.dry_run, shown) {
        Ok(_) if args.quiet => String::new(),
        Ok(Outcome::Busy) => "Another vgrid-upkeep is at work. Nothing was done.\n".to_owned(),
        Ok(Outcome::Done(summary)) => summary.to_string(),
        Err(error) => {
            // If nobody reads it, the exit status still reports the failure.
            let _ = writeln!(std::io::stderr(), "vgrid-upkeep: {error}");
            return ExitCode::FAILURE;
        }
    };
    let _ = std::io::stdout().write_all(output.as_bytes());
    ExitCode::SUCCESS
}
