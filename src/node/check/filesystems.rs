//! File systems: the programs that create them, and their output.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use super::error_output;
use super::images::Images;
use super::packages::install;
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::node::filesystem;
use crate::system::exec::Run;

/// The size of the trial disk, in bytes. XFS requires 300 MiB. The disk is a sparse file.
const TRIAL: u64 = 320 << 20;

/// Checks that the programs that create file systems are installed.
pub fn makers(images: &Images) -> Verdict<()> {
    let mut programs: Vec<&str> =
        images.iter().filter_map(|(_, image)| Some(image.make_filesystem.first()?.as_str())).collect();
    programs.sort_unstable();
    programs.dedup();
    for program in &programs {
        let is_program =
            std::fs::metadata(program).is_ok_and(|facts| facts.is_file() && facts.mode() & 0o111 != 0);
        if !is_program {
            return Err(Problem::new(
                format!("[XenDeployerFSCreateCmd] of node.cfg: there is no program {program}"),
                format!("install it ({}), or mend node.cfg", install("e2fsprogs", "e2fsprogs")),
            ));
        }
    }
    Ok(Finding::passed((), programs.join(", ")))
}

/// Tries each command: it must create a file system that vGrid can mount, without features that
/// programs a few years old can't read, unless the command itself requests them.
pub fn made(images: &Images) -> Finding<()> {
    let mut commands: Vec<(&[String], Vec<&str>)> = Vec::new();
    for (tag, image) in images.iter().filter(|(_, image)| image.disk.is_none()) {
        match commands.iter_mut().find(|(command, _)| *command == image.make_filesystem.as_slice()) {
            Some((_, tags)) => tags.push(tag.as_str()),
            None => commands.push((&image.make_filesystem, vec![tag.as_str()])),
        }
    }
    let (mut notes, mut problems) = (Vec::new(), Vec::new());
    for (command, tags) in commands {
        match made_by(command).and_then(|head| judge_made(command, &tags.join(", "), &head)) {
            Ok(note) => notes.push(note),
            Err(problem) => problems.push(problem),
        }
    }
    notes.sort_unstable();
    notes.dedup();
    Finding::partial(Some(()), notes.join("; "), problems)
}

/// Runs a command on an empty disk. Returns the first bytes of the resulting file system.
fn made_by(command: &[String]) -> Result<Vec<u8>, Problem> {
    let disk = PathBuf::from(format!("/run/vgrid-check-{}.disk", std::process::id()));
    let make = || -> Result<Vec<u8>, String> {
        let options =
            std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&disk);
        let file = options.map_err(|error| format!("{}: {error}", disk.display()))?;
        file.set_len(TRIAL).map_err(|error| format!("{}: {error}", disk.display()))?;
        let (program, args) = command.split_first().ok_or("an empty command")?;
        let run = Run::new(program).args(args).arg(&disk).run();
        run.map_err(|error| error_output(&error))?;
        let mut head = Vec::new();
        let read = file.take(filesystem::HEAD as u64).read_to_end(&mut head);
        read.map(|_| head).map_err(|error| error.to_string())
    };
    let made = make().map_err(|why| format!("{}: {why}", command.join(" ")));
    std::fs::remove_file(&disk).with_remedy(format!("rm {}", disk.display()))?;
    made.with_remedy("mend [XenDeployerFSCreateCmd] of node.cfg; there must be some MiB free in /run")
}

/// Checks a file system by its first bytes.
fn judge_made(command: &[String], tags: &str, head: &[u8]) -> Result<String, Problem> {
    let words = command.join(" ");
    let Some(kind) = filesystem::kind(head) else {
        return Err(Problem::new(
            format!("{words} makes none of ext2, ext3, ext4, xfs and btrfs"),
            "choose another program in [XenDeployerFSCreateCmd] of node.cfg",
        ));
    };
    let features = filesystem::features(head);
    // A command that names a feature, to enable or disable it, does so deliberately.
    let unasked = || features.iter().filter(|feature| feature.young && !words.contains(feature.name));
    if unasked().next().is_none() {
        let names: Vec<&str> = features.iter().map(|feature| feature.name).collect();
        return Ok(format!("{tags}: {} {}", kind.mount_type(), names.join(",")).trim_end().to_owned());
    }
    let each: Vec<String> =
        unasked().map(|feature| format!("{} (needs {})", feature.name, feature.needs)).collect();
    let off: Vec<String> = unasked().map(|feature| format!("^{}", feature.name)).collect();
    let on: Vec<&str> = unasked().map(|feature| feature.name).collect();
    Err(Problem::new(
        format!("{words} makes file systems that older images can't read: {}", each.join(", ")),
        format!(
            "add -O {} to it in [XenDeployerFSCreateCmd] of node.cfg; or, if {tags} can read them, -O {}",
            off.join(","),
            on.join(",")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec;

    #[test]
    fn new_features_that_were_not_requested_are_reported() {
        let made = |options: &str| {
            let program = exec::find(&["mkfs.ext4"]).unwrap();
            let line = format!("{} -q -F {options}", program.display());
            let command: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(TRIAL).unwrap();
            Run::new(program).args(&command[1..]).arg(file.path()).run().unwrap();
            (command, std::fs::read(file.path()).unwrap()[..filesystem::HEAD].to_vec())
        };
        let (command, young) = made("-O metadata_csum,metadata_csum_seed,orphan_file");
        assert!(
            judge_made(&command, "tiny", &young)
                .unwrap()
                .starts_with("tiny: ext4 metadata_csum_seed,orphan_file")
        );
        // The same features by default, as in mke2fs since e2fsprogs 1.47.
        let plain = ["/sbin/mkfs.ext4".to_owned()];
        let problem = judge_made(&plain, "old, older", &young).unwrap_err();
        assert!(problem.why.contains("metadata_csum_seed (needs GRUB 2.12"), "{problem:?}");
        assert!(problem.remedy.starts_with("add -O ^metadata_csum_seed,^orphan_file to it"), "{problem:?}");
        assert!(problem.remedy.contains("if old, older can read them"), "{problem:?}");
        let (command, safe) = made("-O ^metadata_csum_seed,^orphan_file,^64bit,^metadata_csum");
        assert_eq!(judge_made(&command, "tiny", &safe).unwrap(), "tiny: ext4 extent");
        let none = judge_made(&plain, "tiny", &vec![0; filesystem::HEAD]).unwrap_err();
        assert!(none.why.contains("makes none of ext2"), "{none:?}");
    }
}
