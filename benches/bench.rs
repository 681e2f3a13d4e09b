//! What vGrid promises to be fast at, measured on this machine. `cargo bench` prints each number
//! next to its goal. A missed goal is no failure: what a number means depends on the machine and on
//! what else it is doing.
//!
//! An argument selects the parts whose name contains that word: `cargo bench -- pages`, `cargo
//! bench -- images`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vgrid::model::names::RequestId;
use vgrid::node::image;
use vgrid::system::exec::Run;
use vgrid::system::log;

mod deploy;
// The benchmarks do not need everything that the tests do.
#[allow(dead_code)]
#[path = "../tests/support/mod.rs"]
mod support;
#[allow(dead_code, unused_imports)]
#[path = "../tests/virt/host.rs"]
mod virt_host;
mod xen;
#[allow(dead_code, unused_imports)]
#[path = "../tests/xen/host.rs"]
mod xen_host;

use support::portal::{Portal, Setup, enter_machines, password, peak_of, thousand_hosts};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let parts: [(&str, fn()); 5] = [
        ("pages", pages),
        ("upkeep", upkeep),
        ("images", images),
        ("deploy", deploy::deploy),
        ("deploy-xen", xen::xen),
    ];
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            measure();
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Whether a goal was met, as a word.
fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

// ----------------------------------------------------------------------------------------------
// pages

/// Rounds of requests, and requests at once.
const ROUNDS: usize = 7;
const AT_ONCE: &str = "4";
const REQUESTS: &str = "1500";

/// The list, compared with the least that a CGI program can do: a static C program that prints a
/// word, on the same Apache, behind the same sign-in.
fn pages() {
    let portal = crowded(100);
    let hello = portal.path("cgi-bin/user/hello");
    let source = portal.path("hello.c");
    let text =
        "#include <stdio.h>\nint main(void) { puts(\"Content-Type: text/plain\\n\\nhello\"); return 0; }\n";
    fs::write(&source, text).expect("a program to write");
    run(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&hello).arg(&source));
    // A warm-up for each.
    for program in ["hello", "list"] {
        requests_per_second(&portal, program, "200");
    }
    let mut hellos = Vec::new();
    let (mut lists, mut polls) = (Vec::new(), Vec::new());
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let first = (round % 2 == 0).then(|| requests_per_second(&portal, "hello", REQUESTS));
        lists.push(requests_per_second(&portal, "list", REQUESTS));
        polls.push(polls_per_second(&portal));
        hellos.push(first.unwrap_or_else(|| requests_per_second(&portal, "hello", REQUESTS)));
        ratios[0].push(lists[round] / hellos[round]);
        ratios[1].push(polls[round] / hellos[round]);
    }
    let spread = |values: &[f64]| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(0.0, f64::max);
        format!("{low:.2} to {high:.2}")
    };
    println!("user/list, 100 machines, {AT_ONCE} requests at once, median of {ROUNDS} rounds of {REQUESTS}:");
    println!("  a static C program   {:7.0} requests per second", median(hellos));
    println!("  user/list            {:7.0} requests per second", median(lists));
    println!("  user/list, unchanged {:7.0} requests per second", median(polls));
    for (what, ratios, goal) in [("", &ratios[0], 0.8), (", unchanged", &ratios[1], 0.9)] {
        let (range, ratio) = (spread(ratios), median(ratios.clone()));
        println!(
            "  ratio{what:11}         {ratio:4.2} ({range}); goal: at least {goal:.2}, {}",
            verdict(ratio >= goal)
        );
    }
    drop(portal);

    let portal = crowded(10_000);
    println!("user/list, 10000 machines (and as many names in common.cfg), one request after the other:");
    for (user, path) in [("alice", "list"), ("admin", "list"), ("admin", "list?page=100")] {
        let times: Vec<f64> = (0..40)
            .map(|_| {
                let began = Instant::now();
                portal.get(user, path).send().expect(200);
                began.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        let slowest = times.iter().copied().fold(0.0, f64::max);
        let time = median(times);
        println!(
            "  {user:5} {path:15} {time:6.1} ms (slowest {slowest:.1}); goal: under 100 ms, {}",
            verdict(time < 100.0)
        );
    }
}

/// A portal with that many machines of alice on one host.
fn crowded(many: usize) -> Portal {
    let most = u32::try_from(many).expect("a number of machines");
    let portal = Setup { hosts: vec![("localhost", most)], names: many, ..Setup::default() }.start();
    portal.get("alice", "deploy").send().expect(200);
    enter_machines(&portal.registry_file(), "alice", |_| "localhost".to_owned(), many);
    portal
}

fn requests_per_second(portal: &Portal, program: &str, requests: &str) -> f64 {
    let (rate, others) = load(portal, program, requests, &[]);
    assert_eq!(others, 0, "not all were answered with 200");
    rate
}

/// Polls of a list that has not changed. Its tag holds for some seconds, so a round may see one page.
fn polls_per_second(portal: &Portal) -> f64 {
    // What pages are made of must not have changed just now.
    let tag = support::eventually(Duration::from_secs(10), || {
        let answer = portal.get("alice", "list").send().expect(200);
        answer.header("etag").map(str::to_owned)
    });
    let known = format!("If-None-Match: {}", tag.expect("a tag"));
    let (rate, unchanged) = load(portal, "list", REQUESTS, &["-H", &known]);
    if unchanged.to_string() == REQUESTS { rate } else { polls_per_second(portal) }
}

/// How many requests a second are answered, and how many of them not with 200.
fn load(portal: &Portal, program: &str, requests: &str, more: &[&str]) -> (f64, u32) {
    let url = format!("http://{}/cgi-bin/user/{program}", portal.apache.address);
    let report = run(Command::new("/usr/bin/ab")
        .args(["-q", "-l", "-c", AT_ONCE, "-n", requests, "-A", &format!("alice:{}", password("alice"))])
        .args(more)
        .arg(url));
    let value = |name: &str| {
        let line = report.lines().find(|line| line.starts_with(name))?;
        line[name.len()..].split_whitespace().next()?.parse::<f64>().ok()
    };
    assert_eq!(value("Failed requests:"), Some(0.0), "{report}");
    let rate = value("Requests per second:").unwrap_or_else(|| panic!("ab said {report}"));
    let others = report.lines().find_map(|line| line.strip_prefix("Non-2xx responses:"));
    (rate, others.map_or(0, |number| number.trim().parse().expect("a number")))
}

// ---------------------------------------------------------------------------------------------
// upkeep

/// One run of upkeep with hosts that hang and hosts that close connections, and a page opened
/// meanwhile, compared with the same page when nothing else happens.
fn upkeep() {
    let portal = thousand_hosts();
    let page = || {
        let began = Instant::now();
        portal.get("alice", "list").send().expect(200);
        began.elapsed().as_secs_f64() * 1000.0
    };
    let alone = median((0..40).map(|_| page()).collect());
    let began = Instant::now();
    let mut child = portal.start_upkeep(&["--quiet"]);
    let (mut peak, mut pages) = (0, Vec::new());
    while child.try_wait().expect("an exit status").is_none() {
        peak = peak.max(peak_of(child.id()).unwrap_or_default());
        pages.push(page());
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("vgrid-upkeep, 1000 hosts of which 50 hang and 50 hang up, 10000 machines:");
    println!("  one run              {seconds:6.1} s; goal: under 60 s, {}", verdict(seconds < 60.0));
    println!(
        "  memory               {:6} MiB; goal: under 100 MB, {}",
        peak >> 10,
        verdict(peak << 10 < 100_000_000)
    );
    println!("  user/list meanwhile  {:6.1} ms, alone {alone:.1} ms", median(pages));
}

// ---------------------------------------------------------------------------------------------
// images

/// The approximate size of the unpacked image: a Debian with a few services.
const IMAGE: u64 = 300 << 20;

/// Unpacking, compared with tar on an uncompressed archive, on the same file system.
fn images() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    fs::create_dir_all(&dir).expect("a folder for images");
    // vGrid's log of each run does not belong in the output.
    log::start("bench", RequestId::generate(), Some(&dir.join("log")));
    let tar = dir.join("image.tar");
    if !tar.exists() {
        println!("(making an image of {} MiB from this machine's /usr; only once)", IMAGE >> 20);
        make_image(&dir, &tar);
    }
    let packed = |end: &str| dir.join(format!("image.tar.{end}"));
    for (end, packer) in
        [("gz", &["gzip", "-6"][..]), ("zst", &["zstd", "-q", "-9"]), ("xz", &["xz", "-6", "-T0"])]
    {
        if !packed(end).exists() {
            println!("(packing it with {packer:?}; only once)");
            pack(packer, &tar, &packed(end));
        }
    }
    let ways: [(&str, Way, PathBuf); 5] = [
        ("tar -xf  image.tar", Way::Tar, tar.clone()),
        ("tar -zxf image.tar.gz", Way::TarGzip, packed("gz")),
        ("vGrid    image.tar.gz", Way::Ours, packed("gz")),
        ("vGrid    image.tar.zst", Way::Ours, packed("zst")),
        ("vGrid    image.tar.xz", Way::Ours, packed("xz")),
    ];
    for (cold, rounds) in [(false, 5), (true, 3)] {
        println!(
            "unpacking {} MiB, {}, median of {rounds}; beside it with the time to write it all to the disk:",
            fs::metadata(&tar).map_or(0, |facts| facts.len()) >> 20,
            if cold { "nothing of it in memory" } else { "the image in memory" }
        );
        let mut times = vec![(Vec::new(), Vec::new()); ways.len()];
        for round in 0..rounds {
            for i in 0..ways.len() {
                // Forward and backward in turn, so that no way always follows the same one.
                let i = if round % 2 == 0 { i } else { ways.len() - 1 - i };
                let (unpacked, written) = unpack(&dir, ways[i].1, &ways[i].2, cold);
                times[i].0.push(unpacked.as_secs_f64());
                times[i].1.push(written.as_secs_f64());
            }
        }
        let medians: Vec<(f64, f64)> = times.into_iter().map(|(u, w)| (median(u), median(w))).collect();
        for ((name, way, file), (unpacked, written)) in ways.iter().zip(&medians) {
            let ratio = unpacked / medians[0].0;
            let goal = match way {
                Way::Ours if file.extension().is_some_and(|e| e == "gz") && !cold => {
                    format!("; goal: at most 1.25, {}", verdict(ratio <= 1.25))
                }
                _ => String::new(),
            };
            println!(
                "  {name:23} {unpacked:5.2} s  {ratio:4.2}    {written:5.2} s  {:4.2}{goal}",
                written / medians[0].1
            );
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tar,
    TarGzip,
    /// In this process, like a node's worker.
    Ours,
}

/// Unpacks an image once: the time until tar has ended, and until everything is on the disk.
fn unpack(dir: &Path, way: Way, file: &Path, cold: bool) -> (Duration, Duration) {
    let out = dir.join("out");
    // There is none the first time.
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).expect("a folder to unpack into");
    run(&mut Command::new("/bin/sync"));
    // Only root may do this. Without it the numbers vary more.
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    if !cold {
        std::io::copy(&mut fs::File::open(file).expect("an image"), &mut std::io::sink())
            .expect("to read it");
    }
    let began = Instant::now();
    match way {
        Way::Tar => drop(run(Command::new("tar").arg("-xf").arg(file).arg("-C").arg(&out))),
        Way::TarGzip => drop(run(Command::new("tar").arg("-zxf").arg(file).arg("-C").arg(&out))),
        Way::Ours => {
            let (image, _) = image::open(file).expect("an image");
            let (copied, status) = Run::new("/usr/bin/tar")
                .args(["--extract", "--file=-", "--preserve-permissions", "--same-owner", "--numeric-owner"])
                .args(["--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "--directory"])
                .arg(&out)
                .feed(|pipe| {
                    image::enlarge(pipe);
                    Ok(image::copy(image, pipe, |_| true))
                });
            status.expect("tar");
            copied.expect("a pipe").expect("an open pipe").expect("an image");
        }
    }
    let unpacked = began.elapsed();
    run(Command::new("/bin/sync").arg("-f").arg(&out));
    let written = began.elapsed();
    fs::remove_dir_all(&out).expect("to clean up");
    (unpacked, written)
}

/// An archive of every n-th file of /usr, so that large and small files are mixed as on any Debian.
fn make_image(dir: &Path, tar: &Path) {
    let found =
        run(Command::new("find")
            .args(["/usr", "-xdev", "-type", "f", "-size", "-20M", "-printf", "%s %p\\n"]));
    let mut files: Vec<(u64, &str)> = found
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(size, path)| Some((size.parse().ok()?, path)))
        .collect();
    files.sort_by_key(|(_, path)| *path);
    let all: u64 = files.iter().map(|(size, _)| size).sum();
    let list = dir.join("files");
    // Each file adds its share of the image to `owed`. It is included if that brings the total
    // closer to what is owed.
    let mut owed: i64 = 0;
    let names: Vec<&str> = files
        .iter()
        .filter(|(size, _)| {
            let share = u128::from(*size) * u128::from(IMAGE.min(all)) / u128::from(all.max(1));
            owed += i64::try_from(share).unwrap_or(i64::MAX);
            let size = i64::try_from(*size).unwrap_or(i64::MAX);
            let takes = owed >= size / 2;
            owed -= if takes { size } else { 0 };
            takes
        })
        .map(|(_, path)| *path)
        .collect();
    fs::write(&list, names.join("\n")).expect("a list of files");
    let new = dir.join("new.tar");
    run(Command::new("tar").arg("-cPf").arg(&new).arg("--transform=s,^/,,").arg("-T").arg(&list));
    fs::rename(new, tar).expect("to name the image");
}

fn pack(packer: &[&str], tar: &Path, packed: &Path) {
    let new = packed.with_extension("new");
    let made = Command::new(packer[0])
        .args(&packer[1..])
        .arg("-c")
        .arg(tar)
        .stdout(fs::File::create(&new).expect("a file"))
        .status()
        .expect("a packer");
    assert!(made.success(), "{packer:?}: {made}");
    fs::rename(new, packed).expect("to name the image");
}

/// Runs a program, which must succeed. Returns its output.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
