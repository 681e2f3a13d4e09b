//! `vgrid-config-convert FILE`: converts a configuration file from vGrid's syntax of 2007 to TOML.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use vgrid::config::convert;

/// Converts a configuration file from vGrid's old `key: value` syntax to TOML.
#[derive(Parser)]
#[command(name = "vgrid-config-convert", version)]
struct Args {
    /// Replace the file (the old one is kept as FILE.old) instead of printing the result
    #[arg(long)]
    in_place: bool,
    /// The file to convert
    file: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("vgrid-config-convert: {}: {message}", args.file.display());
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let old = std::fs::read_to_string(&args.file).map_err(|error| error.to_string())?;
    let new = convert::convert(&old).map_err(|error| error.to_string())?;
    if args.in_place {
        replace(&args.file, &new).map_err(|error| error.to_string())
    } else {
        print!("{new}");
        Ok(())
    }
}

/// Replaces the file atomically: at no time is it missing or incomplete.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let beside = |suffix: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (old, new) = (beside(".old"), beside(".new"));
    // Fails if the backup exists: it may be the only copy of something.
    std::fs::hard_link(file, &old)
        .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", old.display())))?;
    std::fs::write(&new, text)?;
    std::fs::set_permissions(&new, std::fs::metadata(file)?.permissions())?;
    std::fs::rename(&new, file)
}
