//! File system features that a boot loader or a kernel may be too old for.

use super::host::Host;
use super::volumes;
use crate::node::Machine;
use crate::node::filesystem::{self, Complaint, Feature};
use crate::node::storage::Disk;

impl Host {
    /// Returns a hint, as part of a sentence, at features of a machine's file system that a boot
    /// loader or kernel may not support. Returns `None` unless `output`, from a program or a
    /// console, suggests that problem.
    pub(super) fn unreadable_features(&self, machine: &Machine, output: &str) -> Option<String> {
        let complaint = filesystem::complaint(output)?;
        let head = volumes::head(&self.storage().path(machine, Disk::Root)).ok()?;
        let hint = unreadable(&head, complaint);
        hint.map(|names| format!("its file system has {names}: see \"File systems\" in ADMIN.md"))
    }
}

/// Returns the names of the features that older programs can't read, which are the recent ones. If
/// there are none, but the complaint is certain, returns all known features.
fn unreadable(head: &[u8], complaint: Complaint) -> Option<String> {
    let features = filesystem::features(head);
    let names = |which: &dyn Fn(&Feature) -> bool| {
        let some = features.iter().filter(|feature| which(feature)).map(|feature| feature.name);
        Some(some.collect::<Vec<_>>().join(", ")).filter(|names| !names.is_empty())
    };
    names(&|feature| feature.young).or_else(|| names(&|_| complaint == Complaint::Certain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::{self, Run};

    #[test]
    fn recent_features_are_named_first() {
        let made = |features: &str| {
            let disk = tempfile::NamedTempFile::new().unwrap();
            disk.as_file().set_len(16 << 20).unwrap();
            let program = exec::find(&["mke2fs"]).unwrap();
            let run = Run::new(program).args(["-q", "-F", "-t", "ext4", "-O", features]);
            run.arg(disk.path()).run().unwrap();
            let head = volumes::head(disk.path()).unwrap();
            [Complaint::Certain, Complaint::Possible].map(|complaint| unreadable(&head, complaint))
        };
        let young = made("metadata_csum,metadata_csum_seed,orphan_file,64bit");
        let expected = Some("metadata_csum_seed, orphan_file".to_owned());
        assert_eq!(young, [expected.clone(), expected]);
        let old = made("metadata_csum,^metadata_csum_seed,^orphan_file,64bit");
        assert_eq!(old, [Some("metadata_csum, 64bit, extent".to_owned()), None]);
        assert_eq!(unreadable(b"", Complaint::Certain), None);
    }
}
