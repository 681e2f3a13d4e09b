//! How fast a deploy is on a Xen host, next to a plain shell script's on the same host.

use super::xen_host::{Host, PASSWORD, project, quote, scenario};
use super::{median, verdict};

const ROUNDS: usize = 3;

/// Machines made at once.
const AT_ONCE: usize = 10;

/// Something that makes machines.
struct Maker {
    title: &'static str,
    /// As `measure.py` calls it.
    word: &'static str,
    storage: &'static str,
}

const SCRIPT: Maker = Maker { title: "the script", word: "script", storage: "lvm" };
const LVM: Maker = Maker { title: "vGrid, lvm", word: "vgrid", storage: "lvm" };
const THIN: Maker = Maker { title: "vGrid, thin", word: "vgrid", storage: "thin" };
const MAKERS: [Maker; 3] = [SCRIPT, LVM, THIN];

const COLUMNS: [&str; 4] = ["disk ready", "started", "banner", "gone"];

/// An image, and the memory in MiB and disk in GiB of its machines.
struct Image {
    tag: &'static str,
    memory: u32,
    gib: u32,
}

const IMAGES: [Image; 2] =
    [Image { tag: "tiny", memory: 96, gib: 1 }, Image { tag: "debian", memory: 192, gib: 2 }];

/// The columns' medians: by image, by maker.
type Table = [[[f64; 4]; 3]; 2];

/// Prints for each image and each maker how long the parts of a deploy and its removal take.
pub fn xen() {
    scenario("bench", |host| {
        prepare(host);
        // The first deploy of an image prepares it.
        for image in &IMAGES {
            let first = one(host, &THIN, image);
            println!(
                "the first deploy of {} on thin, which prepares it: disk ready after {:.1} s",
                image.tag, first[0]
            );
        }
        let table = measured(host);
        print_table(&table);
        print_goals(&table);
        let [script, thin] = [&SCRIPT, &THIN].map(|maker| many(host, maker));
        println!(
            "{AT_ONCE} prepared ones of tiny at once, the last started: {thin:.1} s; {AT_ONCE} scripts: {script:.1} s"
        );
        goal("at once / scripts", thin / script, 0.5);
    });
}

/// Adds room, a pool, and the programs that measure.
fn prepare(host: &Host) {
    host.put(&project().join("benches/xen"), "/root/bench");
    host.sh("truncate -s 24G /root/more.img && vgextend -qq vg1 $(losetup -f --show /root/more.img)
         lvcreate -q -y --type thin-pool -L 14G -n pool vg1
         sed -i '/^\\[General\\]/a storage = \"lvm\"\\nthinPool = \"pool\"\\nparallelDeploys = 10' /etc/vgrid/node.cfg
         sed -i 's/^xenhost = .*/xenhost = 12/' /etc/vgrid/common.cfg
         for n in 9 10; do echo \"vm$n = \\\"\\\"\" >> /etc/vgrid/common.cfg
         grep -qw vm$n /etc/hosts || echo \"10.0.2.$((20 + n)) vm$n\" >> /etc/hosts; done");
}

fn measured(host: &Host) -> Table {
    let mut all: [[[Vec<f64>; 4]; 3]; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (i, image) in IMAGES.iter().enumerate() {
            for (maker, of_maker) in MAKERS.iter().zip(&mut all[i]) {
                for (column, time) in of_maker.iter_mut().zip(one(host, maker, image)) {
                    column.push(time);
                }
            }
        }
    }
    all.map(|makers| makers.map(|columns| columns.map(median)))
}

/// Makes and removes a machine.
fn one(host: &Host, maker: &Maker, image: &Image) -> [f64; 4] {
    let line = measure(host, "one", maker, image, 1);
    let times: Vec<f64> = line.split_whitespace().map(|word| word.parse().expect("seconds")).collect();
    eprintln!("  {} {}: {line}", maker.title, image.tag);
    times.try_into().expect("a time for each column")
}

/// Makes many of the small image. Returns when the last one was started.
fn many(host: &Host, maker: &Maker) -> f64 {
    measure(host, "many", maker, &IMAGES[0], AT_ONCE).trim().parse().expect("seconds")
}

fn measure(host: &Host, what: &str, maker: &Maker, image: &Image, count: usize) -> String {
    let Maker { word, storage, .. } = maker;
    let Image { tag, memory, gib } = image;
    // The portal hears of the other storage, and the host rests.
    let said = host.sh(&format!(
        "sed -i 's/^storage = .*/storage = \"{storage}\"/' /etc/vgrid/node.cfg
         runuser -u www-data -- vgrid-upkeep > /dev/null; sleep 5
         VGRID_PASSWORD={} python3 /root/bench/measure.py {what} {word} {tag} {memory} {gib} {count} \
         2> /root/bench/errors || {{ cat /root/bench/errors; exit 1; }}",
        quote(PASSWORD)
    ));
    said.trim().to_owned()
}

fn print_table(table: &Table) {
    println!("deploys on the emulated host, medians of {ROUNDS}, in seconds:");
    for (image, makers) in IMAGES.iter().zip(table) {
        println!(
            "  {:12} {:>11} {:>11} {:>11} {:>11}",
            image.tag, COLUMNS[0], COLUMNS[1], COLUMNS[2], COLUMNS[3]
        );
        for (maker, columns) in MAKERS.iter().zip(makers) {
            let [ready, started, banner, gone] = columns;
            let name = maker.title;
            println!("  {name:12} {ready:11.1} {started:11.1} {banner:11.1} {gone:11.1}");
        }
    }
}

fn print_goals(table: &Table) {
    let [tiny, debian] = table;
    let [script, _, thin] = debian;
    println!("ratios:");
    let ready = [tiny[2][0], thin[0]];
    goal("thin, disk ready: one image / the other", ready[0].max(ready[1]) / ready[0].min(ready[1]), 1.2);
    goal("thin, disk ready of debian / the script's", thin[0] / script[0], 0.1);
    goal("thin, debian started / the script's", thin[1] / script[1], 0.6);
    for (image, [script, lvm, thin]) in IMAGES.iter().zip(table) {
        for column in 0..3 {
            let of = format!("lvm, {} {} / the script's", image.tag, COLUMNS[column]);
            goal(&of, lvm[column] / script[column], 1.0);
        }
        for (name, columns) in [("lvm", lvm), ("thin", thin)] {
            goal(&format!("{name}, {} gone / the script's", image.tag), columns[3] / script[3], 1.15);
        }
    }
}

fn goal(what: &str, ratio: f64, most: f64) {
    println!("  {what:45} {ratio:5.2}   goal: at most {most:.2}, {}", verdict(ratio <= most));
}
