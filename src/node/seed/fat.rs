//! Writes a small disk with files in its root folder, in FAT12 with long names (Microsoft's "FAT32
//! File System Specification", 1.03). Every guest reads it, and no program is needed to make it.

/// The size of a sector, and of a cluster, in bytes.
const SECTOR: usize = 512;
/// How many files and parts of long names the root folder may have: whole sectors.
const ENTRIES: usize = 64;
/// The size of an entry in bytes.
const ENTRY: usize = 32;
/// How many characters of a long name an entry has, and where.
const NAME_PLACES: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// How many clusters FAT12 may have. With fewer than that, every system takes it for FAT12.
const MAX_CLUSTERS: usize = 4084;
/// How many sectors are added, so that a disk is not smaller than any that there ever was.
const SPARE: usize = 128;
/// The end of a file's chain of clusters.
const END: u16 = 0xfff;
/// What the table of clusters, and the header, say about the kind of the disk: not removable.
const MEDIA: u8 = 0xf8;

const VOLUME_LABEL: u8 = 0x08;
const READ_ONLY: u8 = 0x01;
const LONG_NAME: u8 = 0x0f;

/// Makes a disk with a label of at most 11 capitals, and with files of ASCII names, none longer than
/// 26 characters. There is room for 2 MB.
pub fn disk(label: &str, files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let clusters_of = |content: &[u8]| content.len().div_ceil(SECTOR);
    let clusters = files.iter().map(|(_, content)| clusters_of(content)).sum::<usize>() + SPARE;
    debug_assert!(clusters <= MAX_CLUSTERS, "{clusters} clusters");
    let table_sectors = ((clusters + 2) * 3).div_ceil(2).div_ceil(SECTOR);
    let root_sectors = ENTRIES * ENTRY / SECTOR;

    let mut table = vec![0xf00 | u16::from(MEDIA), END];
    let mut root = entry(&padded::<11>(label), VOLUME_LABEL, 0, 0).to_vec();
    let mut data = Vec::new();
    for (number, (name, content)) in (1..).zip(files) {
        let first = table.len();
        let count = clusters_of(content);
        for cluster in first..first + count {
            let next = if cluster + 1 == first + count { END } else { low(cluster + 1) };
            table.push(next);
        }
        data.extend_from_slice(content);
        data.resize(data.len().next_multiple_of(SECTOR), 0);
        let short = short_name(number);
        root.extend(long_name(name, &short));
        let first = if count == 0 { 0 } else { low(first) };
        root.extend(entry(&short, READ_ONLY, first, content.len()));
    }
    debug_assert!(root.len() <= ENTRIES * ENTRY, "too many files");
    table.resize(clusters + 2, 0);
    root.resize(root_sectors * SECTOR, 0);
    data.resize(clusters * SECTOR, 0);
    let mut table = packed(&table);
    table.resize(table_sectors * SECTOR, 0);
    let sectors = 1 + 2 * table_sectors + root_sectors + clusters;
    [header(label, sectors, table_sectors), table.clone(), table, root, data].concat()
}

/// Returns a number that is known to be small.
fn low(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(END)
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [b' '; N];
    bytes.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    bytes
}

/// The first sector.
fn header(label: &str, sectors: usize, table_sectors: usize) -> Vec<u8> {
    let mut head = vec![0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    // A jump, over what follows, to where a boot loader would be.
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"MSWIN4.1");
    put(11, &low(SECTOR).to_le_bytes());
    put(13, &[1]); // sectors of a cluster
    put(14, &1_u16.to_le_bytes()); // sectors before the tables
    put(16, &[2]); // tables
    put(17, &low(ENTRIES).to_le_bytes());
    put(19, &low(sectors).to_le_bytes());
    put(21, &[MEDIA]);
    put(22, &low(table_sectors).to_le_bytes());
    put(24, &32_u16.to_le_bytes()); // sectors of a track
    put(26, &2_u16.to_le_bytes()); // heads
    put(36, &[0x80, 0, 0x29]); // a hard disk; what follows is there
    put(39, b"vGrd"); // serial number
    put(43, &padded::<11>(label));
    put(54, b"FAT12   ");
    put(510, &[0x55, 0xaa]);
    head
}

/// Packs two numbers of 12 bits each into three bytes.
fn packed(table: &[u16]) -> Vec<u8> {
    let pair = |pair: &[u16]| {
        let both = u32::from(pair[0]) | u32::from(pair.get(1).copied().unwrap_or_default()) << 12;
        let [a, b, c, _] = both.to_le_bytes();
        [a, b, c]
    };
    table.chunks(2).flat_map(pair).collect()
}

/// The n-th file's short name, which nobody uses.
fn short_name(number: u8) -> [u8; 11] {
    padded(&format!("FILE~{number}"))
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u16, size: usize) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    // Dates: 1 January 1980, the earliest.
    for at in [16, 18, 24] {
        entry[at] = 0x21;
    }
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..].copy_from_slice(&u32::try_from(size).unwrap_or_default().to_le_bytes());
    entry
}

/// The entries before a file's own that have its long name, the last part first.
fn long_name(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let units: Vec<u16> = name.encode_utf16().collect();
    let parts: Vec<&[u16]> = units.chunks(NAME_PLACES.len()).collect();
    let mut entries = Vec::new();
    for (index, part) in parts.iter().enumerate().rev() {
        let mut entry = [0; ENTRY];
        let is_last = index + 1 == parts.len();
        entry[0] = u8::try_from(index + 1).unwrap_or_default() | if is_last { 0x40 } else { 0 };
        entry[11] = LONG_NAME;
        entry[13] = sum;
        for (place, at) in NAME_PLACES.into_iter().enumerate() {
            // After the name comes a zero, and then nothing.
            let unit = part.get(place).copied().unwrap_or(if place == part.len() { 0 } else { 0xffff });
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.extend(entry);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::exec::Run;

    #[test]
    fn files_of_every_length_are_sound() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.img");
        for length in [0, 1, SECTOR - 1, SECTOR, SECTOR + 1, 600_000, 1_900_000] {
            let content: Vec<u8> = (0..=250).cycle().take(length).collect();
            let files =
                [("a", b"x".to_vec()), ("exactly-13-ab", content.clone()), ("longer-than-13-ab", content)];
            if length > 1_000_000 {
                std::fs::write(&file, disk("LABEL", &files[..2])).unwrap();
            } else {
                std::fs::write(&file, disk("LABEL", &files)).unwrap();
            }
            // dosfstools' fsck.fat. -n: change nothing.
            let output = Run::new("/sbin/fsck.fat").args(["-n", "-v"]).arg(&file).run().unwrap().text();
            assert!(output.contains("2 FATs, 12 bit entries"), "{output}");
            let count = if length > 1_000_000 { 3 } else { 4 };
            assert!(output.contains(&format!(": {count} files, ")), "{length}: {output}");
        }
    }
}
