//! How fast a deploy is where images are prepared, on a libvirt host whose machines are on XFS.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use vgrid::model::stage::Order;

use super::support::visited::Visited as _;
use super::virt_host::{VirtHost, scenario_with};
use super::{median, verdict};

const ROUNDS: usize = 3;

/// The content of the large image, in MiB.
const LARGE: u32 = 1536;

/// What the guest says once it runs: a boot menu, so that its own start takes little time.
const BANNER: &str = "GUEST READY: ";

/// The most that a deploy may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The time after which an image counts as unchanged.
const SETTLED: Duration = Duration::from_millis(3500);

/// How long the host rests before each measurement, until its bridge has noticed that the machine of
/// the last one is gone.
const QUIET: Duration = Duration::from_secs(3);

/// The moments of a deploy, in seconds after the order was sent.
struct Deploy {
    accepted: f64,
    /// The root and the swap disk have their content.
    ready: f64,
    banner: f64,
}

/// Prints the time from an order to the disk, and to the guest's first word. The latter is compared
/// with virt-install on a copy of the same disk.
pub fn deploy() {
    scenario_with("bench", &["--machines", "xfs", "--size", "40G"], |host| {
        add_large(host);
        sleep(SETTLED);
        let images = [("menu", "1 MiB"), ("large", "1.5 GiB")];
        for (image, size) in images {
            let first = order(host, image, 3);
            println!(
                "the first deploy of an image of {size}, which prepares it: disk ready after {:.2} s",
                first.ready - first.accepted
            );
        }
        let mut deploys = [Vec::new(), Vec::new()];
        let mut installs = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (i, (image, _)) in images.iter().enumerate() {
                sleep(QUIET);
                deploys[i].push(order(host, image, 8));
                sleep(QUIET);
                installs[i].push(install(host, image));
            }
        }
        println!("deploys of prepared images, to disks of 8 GiB, medians of {ROUNDS}, in seconds:");
        for (i, (_, size)) in images.iter().enumerate() {
            let of = |value: fn(&Deploy) -> f64| median(deploys[i].iter().map(value).collect());
            let (accepted, ready) = (of(|d| d.accepted), of(|d| d.ready));
            let (own, banner) = (of(|d| d.ready - d.accepted), of(|d| d.banner));
            let install = median(installs[i].clone());
            println!("  an image of {size}:");
            println!("    order to accepted      {accepted:5.2}");
            println!("    accepted to disk ready {own:5.2}");
            println!(
                "    order to disk ready    {ready:5.2}   goal: at most 0.50, {}",
                verdict(ready <= 0.5)
            );
            println!("    order to banner        {banner:5.2}");
            println!(
                "    cp, virt-install --import to banner {install:5.2}; ratio {:4.2}, goal: at most 1.00, {}",
                banner / install,
                verdict(banner <= install)
            );
        }
    });
}

/// Adds an image with much content to the host.
fn add_large(host: &VirtHost) {
    host.sh(&format!(
        "cd /var/lib/vgrid/images; mkdir /root/large; tar -xzf menu.tar.gz -C /root/large
         for n in $(seq {LARGE}); do head -c 1M /dev/urandom > /root/large/$n; done
         tar -C /root/large -cf large.tar .; rm -r /root/large
         sed -i '/^\\[VMImages\\]/a large = \"A boot menu and much else\"' /etc/vgrid/common.cfg
         sed -i '/^\\[VMImageFiles\\]/a large = \"large.tar\"' /etc/vgrid/node.cfg
         sed -i '/^\\[General\\]/a shutdownTimeout = 1' /etc/vgrid/node.cfg"
    ));
}

/// Deploys a machine and terminates it.
fn order(host: &VirtHost, image: &str, gib: u32) -> Deploy {
    let began = Instant::now();
    let fields = format!("vmImage={image}&vmMemory=64&vmPartition={gib}&vmHostname=vm1");
    let id = host.deploy("alice", &fields);
    let accepted = began.elapsed().as_secs_f64();
    let record = host.path(&format!("/var/lib/vgrid/node/jobs/{id}.json"));
    let ready = after(began, || is_past_unpacking(&record));
    let banner = after(began, || host.console_log("alice_vm1").contains(BANNER));
    host.wait_for("alice", &id, "deployed", 120);
    host.carry_out("alice", Order::Terminate, &id, "notDeployed");
    Deploy { accepted, ready, banner }
}

/// Whether the worker has gone on to the stage after the disks, by the node's record.
fn is_past_unpacking(record: &Path) -> bool {
    let text = std::fs::read(record).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    ["configure", "start", "verify"].iter().any(|stage| record["stage"] == *stage)
}

/// The seconds from `began` until something is so.
fn after(began: Instant, is_so: impl Fn() -> bool) -> f64 {
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "it takes too long");
        sleep(Duration::from_millis(3));
    }
    began.elapsed().as_secs_f64()
}

/// Copies the prepared disk as an administrator would (cp clones where it can), and has virt-install
/// make a machine of it. Returns the seconds to its banner.
fn install(host: &VirtHost, image: &str) -> f64 {
    host.sh("mkdir -p /var/lib/vgrid-machines/reference; rm -f /var/lib/vgrid-machines/reference/*");
    let began = Instant::now();
    let installed = host.sh(&format!(
        "cd /var/lib/vgrid-machines/reference && cp ../prepared/{image}.*.raw root.raw && \
         virt-install --connect qemu:///system --import --name reference --memory 64 --vcpus 1 \
         --virt-type qemu --osinfo generic --graphics none --noautoconsole \
         --disk path=$PWD/root.raw,format=raw,bus=virtio,cache=none --network bridge=br0,model=virtio \
         --boot kernel=/var/lib/vgrid-machines/pcgrub.img \
         --sysinfo type=smbios,oemStrings.entry0='root=/dev/vda ro console=ttyS0' \
         --serial pty,log.file=/var/log/libvirt/qemu/guest-reference.log 2>&1"
    ));
    assert!(installed.contains("Domain creation completed"), "{installed}");
    let banner = after(began, || host.console_log("reference").contains(BANNER));
    host.sh("virsh -q destroy reference; virsh -q undefine reference; \
         rm -r /var/lib/vgrid-machines/reference /var/log/libvirt/qemu/guest-reference.log");
    banner
}
