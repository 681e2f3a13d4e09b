//! The helper, the only program that runs as root: `vgrid-helper VERB ARGUMENTS…`.
//!
//! Each argument is parsed into its type before anything happens. There is no other input but standard
//! input, for some verbs: no environment, no path. The configuration is read from `/etc/vgrid`, and every
//! directory with a file that it opens must be writable only by root (see [`trust`](super::trust)).
//!
//! A verb that changes a machine holds the machine's lock (see `guard`) and touches only what is
//! marked with the machine's id: volumes by their tag, the configuration file by its first line,
//! the domain by its UUID. The one verb for anything else, `discard`, is refused unless the host's
//! administrator has enabled it.
//!
//! The exit status is 0 on success, with JSON on standard output if the verb has a result. It is 1
//! on failure, with a [`Fault`](crate::model::fault::Fault) as JSON on standard output (on standard
//! error for `pack`, `pack-disk`, `unpack-image`, `prepare-image`, `unpack-snapshot` and `grow-volume`,
//! whose standard output is a stream) and a sentence on standard error. It is 2 on wrong usage.

pub(super) mod consoles;
mod domains;
mod failure;
mod features;
mod guard;
mod host;
pub mod limits;
mod namespace;
mod nobody;
mod own;
mod percentages;
mod prepared;
mod run;
mod source;
mod verbs;
mod volumes;

use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use percent_encoding::percent_decode_str;

use crate::model::names::{
    DomainNumber, ForeignDomain, ForeignVolume, ImageTag, MachineName, NameFault, RequestId, SavedImage,
    SnapshotName, UserName, VmId,
};
use crate::model::size::{Cpus, GiB, MiB};
use crate::model::spec::Original;

pub use host::Stand;
pub(super) use nobody::as_nobody;
pub use prepared::Filling;
pub use run::main;
pub use verbs::pack::PackHeader;

#[derive(Debug, Parser)]
#[command(
    name = "vgrid-helper",
    version,
    about = "What a vGrid node does as root",
    disable_help_subcommand = true
)]
struct Cli {
    /// The id of the request that this is for, which goes into the log
    #[arg(long)]
    request: Option<RequestId>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell what the host has, as JSON
    Info,
    /// Make a machine's volumes
    MakeVolumes {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        /// The size of its root partition in GiB
        disk: GiB,
        #[command(flatten)]
        original: OriginalArgs,
    },
    /// Make the file system and the swap area on a machine's volumes; tell what is left to do, as JSON
    MakeFilesystems {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        #[command(flatten)]
        original: OriginalArgs,
    },
    /// Unpack the plain tar archive on standard input into a machine's root volume
    Unpack {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
    },
    /// Unpack the image's file on standard input into a machine's root volume, and keep the disk as
    /// prepared; tell the percentages on standard output, one a line
    UnpackImage {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        /// The file is that of this saved image, USER_NAME, which is based on the image
        #[arg(long)]
        saved: Option<Saved>,
    },
    /// Prepare an image, whose file is standard input, before somebody deploys it; tell the percentages on
    /// standard output, one a line
    PrepareImage {
        /// The image
        image: ImageTag,
    },
    /// Fill a machine's root volume from a snapshot of another machine; tell the percentages on standard
    /// output, one a line
    UnpackSnapshot {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        /// The id of the machine that the snapshot is of
        of: VmId,
        /// What the snapshot is called
        name: SnapshotName,
    },
    /// Write the whole disk on standard input, in pieces, to a machine's root volume
    WriteDisk {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
    },
    /// Make the disk that tells cloud-init in a machine about it; the owner's public keys are on
    /// standard input
    MakeSeed {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        /// Its address
        ip: Ipv4Addr,
        /// Its owner's name, percent-encoded
        user: Owner,
    },
    /// Write the file system of a stopped machine to standard output: a line of JSON, then a plain
    /// tar archive
    Pack {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
    },
    /// Write the whole disk of a stopped machine to standard output: a line of JSON, then the disk
    PackDisk {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
    },
    /// Render, check and install a machine's configuration
    Configure {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        /// Its memory in MiB
        memory: MiB,
        /// The number of its processors
        cpus: Cpus,
        /// Its address
        ip: Ipv4Addr,
        /// Its owner's name, percent-encoded
        user: Owner,
        /// Only if node.cfg names another toolstack than the one that has its configuration, which
        /// is removed then
        #[arg(long)]
        if_moved: bool,
        /// For a machine that does not run, and is not to be started with the host
        #[arg(long, conflicts_with = "if_moved")]
        stopped: bool,
    },
    /// Enlarge the root volume of a machine that does not run; tell the percentages on standard
    /// output, one a line
    GrowVolume {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// The size of its root partition in GiB
        disk: GiB,
    },
    /// Take a snapshot of a machine's root volume; tell what the storage has now, as JSON
    TakeSnapshot {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// What the snapshot is called
        name: SnapshotName,
        /// The space that is promised to others, in MiB
        reserved: u64,
    },
    /// Give a machine that does not run the root volume that it had at a snapshot; tell what the
    /// storage has now, as JSON
    RollBack {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// What the snapshot is called
        name: SnapshotName,
    },
    /// Give a machine that does not run the root volume that its image makes, from the image's prepared
    /// disk; tell what the storage has now, as JSON
    AsNew {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its image
        image: ImageTag,
        /// The space that is promised to others, in MiB
        reserved: u64,
    },
    /// Delete a snapshot of a machine's root volume; tell what the storage has now, as JSON
    DeleteSnapshot {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// What the snapshot is called
        name: SnapshotName,
    },
    /// Start a machine
    Start {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Its memory in MiB, to say what was needed if there is not enough
        memory: MiB,
    },
    /// Watch a machine until it is seen to run
    Verify {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
    },
    /// Shut a machine down, forcing it after a while, and keep it from starting with the host
    Stop {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
    },
    /// Remove all of a machine: processes, domain, configuration, volumes
    Undo {
        /// The machine's id
        id: VmId,
        /// Its name, USER_HOST
        machine: MachineName,
        /// Remove its console log, too
        #[arg(long)]
        forget_console: bool,
    },
    /// Tell the last part of a machine's console log, as JSON
    Console {
        /// The machine's name, USER_HOST
        machine: MachineName,
        /// At most so many bytes
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
        bytes: u32,
    },
    /// Remove something that vGrid did not make, where node.cfg says removeStrangers = true
    #[command(disable_help_subcommand = true)]
    Discard {
        #[command(subcommand)]
        stranger: Foreign,
    },
}

#[derive(Debug, Subcommand)]
enum Foreign {
    /// A volume of the volume group that carries no tag of vGrid's and is not in use
    Volume {
        /// Its name, which begins with xen-root- or xen-swap-
        name: ForeignVolume,
    },
    /// A domain that vGrid has no configuration of
    Domain {
        /// Its name
        name: ForeignDomain,
        /// Its number, as it was listed
        number: DomainNumber,
    },
}

/// What a machine's root volume may be a clone of, if that is prepared.
#[derive(Debug, clap::Args)]
struct OriginalArgs {
    /// Clone the prepared disk of the image, if there is one
    #[arg(long)]
    own_image: bool,
    /// Clone the prepared disk of this saved image, USER_NAME, whose file is standard input, if there is one
    #[arg(long, conflicts_with = "own_image")]
    saved: Option<Saved>,
}

impl OriginalArgs {
    fn get(&self) -> Original<'_> {
        match &self.saved {
            Some(Saved(image)) => Original::Saved(image),
            None if self.own_image => Original::Image,
            None => Original::Nothing,
        }
    }
}

/// A saved image, in exactly the form of [`SavedImage::stem`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Saved(SavedImage);

impl FromStr for Saved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let image = SavedImage::from_stem(text).filter(|image| image.stem() == text);
        image.map(Self).ok_or_else(|| format!("{text:?} is not the name of a saved image's file"))
    }
}

/// The name of a machine's owner, in exactly the form of [`UserName::encoded`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner(UserName);

impl FromStr for Owner {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let decoded: Vec<u8> = percent_decode_str(text).collect();
        let user = UserName::from_bytes(&decoded)?;
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._~%".contains(*c))) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None if user.encoded() != text => Err(NameFault::BadCharacter('%')),
            None => Ok(Self(user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["vgrid-helper"].iter().chain(args))
    }

    const ID: &str = "019dd5a3-2f3a-7c11-9d9b-0123456789ab";

    #[test]
    fn well_formed_calls_are_accepted() {
        parse(&["info"]).unwrap();
        parse(&["--request", "abc123", "make-volumes", ID, "alice_vm1", "tiny", "1"]).unwrap();
        parse(&["make-volumes", ID, "alice_vm1", "tiny", "1", "--own-image"]).unwrap();
        parse(&["make-volumes", ID, "alice_vm1", "tiny", "1", "--saved=alice_base"]).unwrap();
        parse(&["make-filesystems", ID, "alice_vm1", "tiny", "--own-image"]).unwrap();
        parse(&["make-filesystems", ID, "alice_vm1", "tiny", "--saved=J+C3+BC_base-1.2"]).unwrap();
        parse(&["unpack-image", ID, "alice_vm1", "tiny"]).unwrap();
        parse(&["unpack-image", ID, "alice_vm1", "tiny", "--saved=bob_base"]).unwrap();
        parse(&["configure", ID, "J+C3+BC_vm1", "tiny", "128", "1", "10.0.2.21", "J%C3%BC"]).unwrap();
        parse(&["configure", "--if-moved", ID, "alice_vm1", "tiny", "128", "1", "10.0.2.21", "alice"])
            .unwrap();
        parse(&["configure", "--stopped", ID, "alice_vm1", "tiny", "128", "1", "10.0.2.21", "alice"])
            .unwrap();
        parse(&["grow-volume", ID, "alice_vm1", "2"]).unwrap();
        parse(&["take-snapshot", ID, "alice_vm1", "before-upgrade", "0"]).unwrap();
        parse(&["roll-back", ID, "alice_vm1", "1"]).unwrap();
        parse(&["delete-snapshot", ID, "alice_vm1", "a.b"]).unwrap();
        parse(&["as-new", ID, "alice_vm1", "debian-12", "0"]).unwrap();
        parse(&["stop", ID, "alice_vm1"]).unwrap();
        parse(&["pack", ID, "alice_vm1"]).unwrap();
        parse(&["pack-disk", ID, "alice_vm1"]).unwrap();
        parse(&["write-disk", ID, "alice_vm1", "debian"]).unwrap();
        parse(&["make-seed", ID, "J+C3+BC_vm1", "debian", "10.0.2.21", "J%C3%BC"]).unwrap();
        parse(&["undo", ID, "alice_vm1"]).unwrap();
        parse(&["undo", ID, "alice_vm1", "--forget-console"]).unwrap();
        parse(&["--request", "abc123", "prepare-image", "debian-12"]).unwrap();
        parse(&["discard", "volume", "xen-root-old"]).unwrap();
        parse(&["discard", "domain", "somebody", "7"]).unwrap();
    }

    fn must_be_refused(calls: &[&[&str]]) {
        for args in calls {
            let error = parse(args).expect_err(&format!("{args:?} was accepted"));
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn malformed_originals_are_refused_before_anything_happens() {
        let volumes = ["make-volumes", ID, "alice_vm1", "tiny", "1"];
        let filesystems = ["make-filesystems", ID, "alice_vm1", "tiny"];
        let unpack = ["unpack-image", ID, "alice_vm1", "tiny"];
        for (verb, options) in [
            (&volumes[..], &["--saved"][..]),
            (&volumes, &["--own-image", "--saved=alice_base"]),
            (&volumes, &["--own-image=tiny"]),
            (&filesystems, &["--saved=base"]),
            (&filesystems, &["--saved=alice_Base"]),
            (&filesystems, &["--saved=../alice_base"]),
            (&filesystems, &["--saved=alice_base", "--saved=alice_base"]),
            (&unpack, &["--own-image"]),
            (&unpack, &["--saved=/etc/shadow"]),
            (&unpack, &["--saved=al ice_base"]),
            (&unpack, &["alice_base"]),
        ] {
            let args = [verb, options].concat();
            assert_eq!(parse(&args).expect_err(&format!("{args:?}")).exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn a_root_volume_may_be_a_clone_of_one_thing() {
        let original = |options: &[&str]| {
            let args = [&["make-filesystems", ID, "alice_vm1", "tiny"], options].concat();
            match parse(&args).unwrap().verb {
                Verb::MakeFilesystems { original, .. } => match original.get() {
                    Original::Nothing => "nothing".to_owned(),
                    Original::Image => "the image".to_owned(),
                    Original::Saved(image) => image.to_string(),
                },
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(original(&[]), "nothing");
        assert_eq!(original(&["--own-image"]), "the image");
        assert_eq!(original(&["--saved=alice_base"]), "alice/base");
    }

    #[test]
    fn malformed_calls_are_refused_before_anything_happens() {
        must_be_refused(&[
            &[],
            &["nonsense"],
            &["undo"],
            &["undo", ID],
            &["undo", ID, "alice_vm1", "bob_vm1"],
            &["undo", "1", "alice_vm1"],
            &["undo", ID, "../alice_vm1"],
            &["undo", ID, "-f"],
            &["undo", ID, "--help-me"],
            &["undo", ID, "alice_vm1/../../etc"],
            &["undo", ID, "Domain-0"],
            &["undo", ID, "--forget-console"],
            &["undo", ID, "alice_vm1", "--forget-console=/etc/shadow"],
            &["undo", ID, "alice_vm1\n"],
            &["make-volumes", ID, "alice_vm1", "tiny", "0"],
            &["make-volumes", ID, "alice_vm1", "tiny", "99999999999999999999"],
            &["make-volumes", ID, "alice_vm1", "../../etc/passwd", "1"],
            &["make-volumes", ID, "alice_vm1", "tiny", "1", "--addtag"],
            &["pack"],
            &["pack", ID],
            &["pack", ID, "alice_vm1", "/var/lib/vgrid/images/alice_x.tar.gz"],
            &["pack", ID, "--directory=/etc"],
            &["pack", ID, "alice_vm1/.."],
            &["pack", "x", "alice_vm1"],
            &["pack-disk", ID, "alice_vm1", "/var/lib/vgrid/images/alice_x.raw.gz"],
            &["write-disk", ID, "alice_vm1"],
            &["write-disk", ID, "alice_vm1", "../../etc/passwd"],
            &["write-disk", ID, "alice_vm1", "debian", "/dev/sda"],
            &["make-seed", ID, "alice_vm1", "debian", "10.0.2.21"],
            &["make-seed", ID, "alice_vm1", "debian", "10.0.2.21; reboot", "alice"],
            &["make-seed", ID, "alice_vm1", "debian", "10.0.2.21", "%61lice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "1", "10.0.2.21; reboot", "alice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "1", "10.0.2.21", "al ice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "1", "10.0.2.21", "al\"ice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "1", "10.0.2.21", "%61lice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "1", "10.0.2.21", "%ff"],
            &["configure", ID, "alice_vm1", "tiny", "128", "10.0.2.21", "alice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "0", "10.0.2.21", "alice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "65", "10.0.2.21", "alice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "1; reboot", "10.0.2.21", "alice"],
            &["configure", ID, "alice_vm1", "tiny", "128", "-1", "10.0.2.21", "alice"],
            &["console", "alice_vm1", "0"],
            &["console", "alice_vm1", "4294967295"],
            &["console", "/etc/shadow", "100"],
            &["discard"],
            &["discard", "help"],
            &["discard", "volume"],
            &["discard", "image", "xen-root-x"],
            &["discard", "xen-root-x"],
            &["discard", "volume", "root"],
            &["discard", "volume", "vg1/xen-root-x"],
            &["discard", "volume", "/dev/vg1/xen-root-x"],
            &["discard", "volume", "xen-root-"],
            &["discard", "volume", "xen-root-../root"],
            &["discard", "volume", "xen-root-x", "root"],
            &["discard", "volume", "xen-root-x", "-y"],
            &["discard", "volume", "--select=all"],
            &["discard", "volume", "-ff"],
            &["discard", "volume", "xen-root-x\n"],
            &["discard", "volume", "@vgrid"],
            &["discard", "domain"],
            &["discard", "domain", "somebody"],
            &["discard", "domain", "7"],
            &["discard", "domain", "7", "7"],
            &["discard", "domain", "Domain-0", "0"],
            &["discard", "domain", "Domain-0", "1"],
            &["discard", "domain", "(null)", "7"],
            &["discard", "domain", "somebody", "0"],
            &["discard", "domain", "somebody", "-1"],
            &["discard", "domain", "somebody", "32752"],
            &["discard", "domain", "somebody", "4294967297"],
            &["discard", "domain", "somebody", "7", "8"],
            &["discard", "domain", "some body", "7"],
            &["discard", "domain", "some/body", "7"],
            &["discard", "domain", "some'body", "7"],
            &["discard", "domain", "--all", "7"],
            &["discard", "domain", "", "7"],
            &["--request", "a b", "info"],
            &["--config", "/tmp", "info"],
        ]);
    }

    #[test]
    fn malformed_calls_about_prepared_disks_and_snapshots_are_refused_before_anything_happens() {
        must_be_refused(&[
            &["take-snapshot", ID, "alice_vm1", "a"],
            &["take-snapshot", ID, "alice_vm1", "../a", "0"],
            &["take-snapshot", ID, "alice_vm1", "a_tmeta", "0"],
            &["take-snapshot", ID, "alice_vm1", "a", "-1"],
            &["roll-back", ID, "alice_vm1"],
            &["roll-back", ID, "alice_vm1", "-f"],
            &["delete-snapshot", ID, "alice_vm1", "a", "b"],
            &["as-new", ID, "alice_vm1"],
            &["as-new", ID, "alice_vm1", "tiny"],
            &["as-new", ID, "alice_vm1", "../../etc/passwd", "0"],
            &["as-new", ID, "alice_vm1", "tiny", "-1"],
            &["as-new", ID, "alice_vm1", "tiny", "0", "/dev/vg1/xen-root-bob_vm2"],
            &["as-new", ID, "alice_vm1/..", "tiny", "0"],
            &["prepare-image"],
            &["prepare-image", "../../etc/passwd"],
            &["prepare-image", "/var/lib/vgrid/images/tiny.tar.gz"],
            &["prepare-image", "-f"],
            &["prepare-image", "tiny", "debian"],
            &["prepare-image", "tiny", "--size=1"],
            &["prepare-image", ID, "alice_vm1", "tiny"],
        ]);
    }

    #[test]
    fn malformed_changes_of_sizes_are_refused_before_anything_happens() {
        for disk in
            [&[][..], &["0"], &["-1"], &["+1G"], &["1.5"], &["65537"], &["2", "/dev/sda"], &["--help-me"]]
        {
            let args = [&["grow-volume", ID, "alice_vm1"], disk].concat();
            assert_eq!(parse(&args).expect_err(&format!("{args:?}")).exit_code(), 2, "{args:?}");
        }
        for machine in ["alice_vm1/..", "Domain-0", "-f"] {
            parse(&["grow-volume", ID, machine, "2"]).unwrap_err();
        }
        let machine = [ID, "alice_vm1", "tiny", "128", "1", "10.0.2.21", "alice"];
        let both = [&["configure", "--stopped", "--if-moved"], &machine[..]].concat();
        assert_eq!(parse(&both).expect_err("one or the other").exit_code(), 2);
    }
}
