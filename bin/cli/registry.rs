//! `vgrid-registry`: creates and maintains the registry.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vgrid::config;
use vgrid::server::keeping::{self, KeepingError, Ready};
use vgrid::server::registry::file::{Restored, Summary};

/// Makes the portal's registry and looks after it.
///
/// The configuration is that of /etc/vgrid, or of the folder that VGRID_CONFIG_DIR names; there registryFile says where the
/// registry is. Run it as root or as the web server's user.
#[derive(Parser)]
#[command(name = "vgrid-registry", version, after_help = "Exit status: 0 done, 1 it failed, 2 wrong usage.")]
struct Args {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Make the registry of a new portal
    ///
    /// Where there is a registry nothing is changed but what earlier attempts left beside it, and its mode (640). Root gives
    /// the registry to the user whom its folder belongs to.
    Init,
    /// Copy the registry to a new file, while the portal goes on
    Backup {
        /// The new file
        file: PathBuf,
    },
    /// Put a backup in the registry's place
    ///
    /// Refused while anybody has the registry open: stop Apache first. The present registry is kept beside it. Then start Apache and
    /// run vgrid-upkeep: it compares the hosts, and user/admin shows each difference.
    Restore {
        /// The backup
        file: PathBuf,
        /// Put it there though the present registry is another
        #[arg(long)]
        force: bool,
    },
    /// Look at every page of the registry, or of a backup
    Verify {
        /// The backup; the registry itself if it is left out
        file: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match carry_out(Args::parse().act) {
        Ok(output) => {
            // If the reader closes our output early, that is no error; the exit status still
            // counts.
            let _ = std::io::stdout().write_all(output.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "vgrid-registry: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Formats the summary of a registry.
fn describe(summary: &Summary) -> String {
    let Summary { identity, version, machines, images, users, changed, restored } = summary;
    let changed = changed.map(|at| format!(", last changed {at}")).unwrap_or_default();
    let restored = restored.map(|at| format!(", restored {at}")).unwrap_or_default();
    format!(
        "registry {identity}, version {version}: machines {machines}, saved images {images}, users \
         {users}{changed}{restored}."
    )
}

/// Carries out the command and returns its output.
fn carry_out(act: Act) -> Result<String, KeepingError> {
    let dir = config::directory();
    match act {
        Act::Init => {
            let Ready { file, identity, made } = keeping::init(&dir)?;
            let what = if made { "is made" } else { "was there already" };
            Ok(format!("The registry {} {what}. Its identity is {identity}.\n", file.display()))
        }
        Act::Backup { file } => {
            let summary = keeping::backup(&dir, &file)?;
            Ok(format!("{} is a backup of {}\n", file.display(), describe(&summary)))
        }
        Act::Restore { file, force } => {
            let Restored { summary, before } = keeping::restore(&dir, &file, force)?;
            let kept = before
                .map(|before| format!("What was there before is {}.\n", before.display()))
                .unwrap_or_default();
            Ok(format!(
                "The registry is that of {} again: {}\n{kept}Nothing is deployed until upkeep has compared the hosts:\n  \
                 systemctl start apache2 && sudo -u www-data vgrid-upkeep\nThen look at user/admin for what is \
                 unknown or missing on hosts.\n",
                file.display(),
                describe(&summary)
            ))
        }
        Act::Verify { file } => {
            let (file, summary) = keeping::verify(&dir, file.as_deref())?;
            Ok(format!("{} is whole: {}\n", file.display(), describe(&summary)))
        }
    }
}
