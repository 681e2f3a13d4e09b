//! `vgrid-check` on a real libvirt host: everything passes after the installation, and when one
//! thing at a time is broken and mended, only what depends on it does not. `xen::check` breaks what
//! hosts of all types need.

use super::host::{VirtHost, scenario_with};
use crate::support::checks::{self, Case, Names, read_report};

const fn case(
    breaks: &'static str,
    how: &'static str,
    mends: &'static str,
    words: (&'static str, &'static str),
) -> Case {
    Case { words, ..checks::case(breaks, how, mends) }
}

/// A change to a file of the host, and the way back.
macro_rules! edited {
    ($file:literal, $script:literal) => {
        concat!("cp -p ", $file, " /root/edited && sed -i '", $script, "' ", $file)
    };
}
macro_rules! restored {
    ($file:literal) => {
        concat!("mv /root/edited ", $file)
    };
}

pub const CASES: [Case; 25] = [
    // libvirt itself.
    Case {
        skips: &["libvirt's sockets", "libvirt's consoles", "machines run", "templates for libvirt"],
        ..case(
            "libvirt",
            "kill $(pgrep -x libvirtd); while pgrep -x libvirtd; do sleep 0.1; done",
            "libvirtd -d",
            ("libvirtd is not running on this host", "systemctl restart libvirtd"),
        )
    },
    // As on another distribution, where libvirt-guests does something else by default.
    Case {
        fails: &["machines at shutdown"],
        skips: &["libvirt's sockets", "libvirt's consoles", "machines run", "templates for libvirt"],
        ..case(
            "libvirt",
            "mv /usr/bin/virsh /root/; printf 'ID=\"rocky\"\\nID_LIKE=\"rhel centos fedora\"\\n' > /run/other && \
             mount --bind /run/other /etc/os-release",
            "mv /root/virsh /usr/bin/; umount /etc/os-release; rm /run/other",
            ("there is no virsh on this host", "dnf install libvirt qemu-kvm && systemctl restart virtqemud"),
        )
    },
    case(
        "libvirt's sockets",
        "chmod 777 /run/libvirt/libvirt-sock /run/libvirt/libvirt-sock-ro",
        "chmod 700 /run/libvirt/libvirt-sock /run/libvirt/libvirt-sock-ro",
        (
            "others than root can open libvirt-sock, libvirt-sock-ro in /run/libvirt",
            "SocketMode=0600 and SocketGroup=root for libvirtd.socket libvirtd-ro.socket",
        ),
    ),
    // What systemd would say.
    case(
        "libvirt at boot",
        "mkdir -p /run/systemd/system && mv /usr/bin/systemctl /root/ && \
         printf '#!/bin/sh\\n[ $1 = show ] && echo After=libvirtd.service && exit\\n\
         [ \"$2\" = libvirt-guests ] && echo enabled && exit\\necho disabled\\nexit 1\\n' > /usr/bin/systemctl && \
         chmod 755 /usr/bin/systemctl",
        "mv /root/systemctl /usr/bin/ && rmdir -p --ignore-fail-on-non-empty /run/systemd/system",
        ("systemd does not start libvirtd with the host", "systemctl enable libvirtd"),
    ),
    case(
        "machines at shutdown",
        "mkdir -p /run/systemd/system && mv /usr/bin/systemctl /root/ && \
         printf '#!/bin/sh\\n[ \"$2\" = libvirtd ] && echo enabled && exit\\necho disabled\\nexit 1\\n' > /usr/bin/systemctl && \
         chmod 755 /usr/bin/systemctl",
        "mv /root/systemctl /usr/bin/ && rmdir -p --ignore-fail-on-non-empty /run/systemd/system",
        ("the service libvirt-guests is off", "systemctl enable --now libvirt-guests"),
    ),
    // As on Debian 12.
    case(
        "machines at shutdown",
        "mkdir -p /run/systemd/system && mv /usr/bin/systemctl /root/ && \
         printf '#!/bin/sh\\n[ $1 = show ] && echo After=libvirtd.socket && exit\\necho enabled\\n' \
         > /usr/bin/systemctl && chmod 755 /usr/bin/systemctl",
        "mv /root/systemctl /usr/bin/ && rmdir -p --ignore-fail-on-non-empty /run/systemd/system",
        ("libvirtd may end before libvirt-guests has shut down the machines", "After=libvirtd.service"),
    ),
    case(
        "machines at shutdown",
        "echo ON_SHUTDOWN=suspend >> /etc/default/libvirt-guests",
        "sed -i /^ON_SHUTDOWN=suspend/d /etc/default/libvirt-guests",
        ("libvirt-guests does not shut machines down, but: suspend", "ON_SHUTDOWN=shutdown in /etc/default/"),
    ),
    Case {
        skips: &["machines run", "templates for libvirt"],
        ..case(
            "libvirt's consoles",
            "kill $(pgrep -x virtlogd); while pgrep -x virtlogd; do sleep 0.1; done",
            "virtlogd -d",
            ("virtlogd, which logs consoles, does not answer", "systemctl enable --now virtlogd.socket"),
        )
    },
    Case {
        skips: &["machines run", "templates for libvirt"],
        ..case(
            "libvirt's consoles",
            "chmod g+w /var/log/libvirt",
            "chmod g-w /var/log/libvirt",
            (
                "/var/log/libvirt can be changed by others",
                "chown root /var/log/libvirt && chmod go-w /var/log/libvirt",
            ),
        )
    },
    // The machines' folders.
    Case {
        fails: &["machine directory"],
        skips: &["free space", "boot loader", "machines run", "templates for libvirt"],
        ..case(
            "disks",
            edited!("/etc/vgrid/node.cfg", "s,^storage.*,&\\nmachineDirectory = \"/var/lib/none\","),
            restored!("/etc/vgrid/node.cfg"),
            ("/var/lib/none: No such file or directory", "install -d -o root -g root -m 711 /var/lib/none"),
        )
    },
    Case {
        fails: &["disks"],
        skips: &["free space", "boot loader", "machines run", "templates for libvirt"],
        ..case(
            "machine directory",
            "chmod g+w /var/lib/vgrid-machines",
            "chmod g-w /var/lib/vgrid-machines",
            ("/var/lib/vgrid-machines can be changed by others", "chmod go-w /var/lib/vgrid-machines"),
        )
    },
    Case {
        skips: &["boot loader", "machines run", "templates for libvirt"],
        ..case(
            "machine directory",
            "chmod 700 /var/lib/vgrid-machines",
            "chmod 711 /var/lib/vgrid-machines",
            ("QEMU can't get through /var/lib/vgrid-machines", "chmod o+x /var/lib/vgrid-machines"),
        )
    },
    Case {
        skips: &["machines run", "templates for libvirt"],
        ..case(
            "boot loader",
            "mv /var/lib/vgrid-machines/pcgrub.img /usr/lib/grub/i386-pc/lnxboot.img /root/",
            "mv /root/pcgrub.img /var/lib/vgrid-machines/; mv /root/lnxboot.img /usr/lib/grub/i386-pc/",
            (
                "there is no /usr/lib/grub/i386-pc/lnxboot.img",
                "apt-get install grub-pc-bin grub-common, then: /usr/lib/vgrid/vgrid-pcgrub",
            ),
        )
    },
    Case {
        skips: &["machines run", "templates for libvirt"],
        ..case(
            "boot loader",
            "chown libvirt-qemu /var/lib/vgrid-machines/pcgrub.img",
            "chown root /var/lib/vgrid-machines/pcgrub.img",
            ("others than root can change it", "rm /var/lib/vgrid-machines/pcgrub.img, then:"),
        )
    },
    // There is no KVM in the host.
    Case {
        skips: &["templates for libvirt"],
        ..case(
            "machines run",
            edited!("/etc/vgrid/node.cfg", "/^allowEmulation/d"),
            restored!("/etc/vgrid/node.cfg"),
            ("virt type 'kvm'", "allowEmulation = true in node.cfg"),
        )
    },
    // It is said to run, but it never says a word, as where KVM does not work.
    Case {
        skips: &["templates for libvirt"],
        ..case(
            "machines run",
            "cd /var/lib/vgrid-machines; mv pcgrub.img /root/; head -c 4096 /root/pcgrub.img > pcgrub.img",
            "mv /root/pcgrub.img /var/lib/vgrid-machines/",
            (
                "is said to run, but has not said a word within 30 s",
                "/usr/lib/vgrid/vgrid-pcgrub makes it anew",
            ),
        )
    },
    // Templates.
    Case {
        skips: &["templates for libvirt", "bridge"],
        ..case(
            "templates",
            edited!("/etc/vgrid/node.cfg", "s/kvm.xml/xen-xvda/"),
            restored!("/etc/vgrid/node.cfg"),
            (
                "/etc/vgrid/vmtmpl/xen-xvda is a template of type xen, and the type of kvm-tiny, menu is kvm",
                "mend [VMTypes] or [VMConfigTemplates]",
            ),
        )
    },
    Case {
        fails: &["templates", "Xen", "autostart", "consoles"],
        skips: &["bridge", "toolstack", "console logs", "templates for the toolstack"],
        ..case(
            "templates",
            edited!("/etc/vgrid/node.cfg", "s/^default = \"kvm\"/default = \"xen\"/"),
            restored!("/etc/vgrid/node.cfg"),
            ("kvm.xml is a template of type kvm, and the type of kvm-tiny, menu is xen", "mend [VMTypes]"),
        )
    },
    case(
        "templates for libvirt",
        edited!("/etc/vgrid/vmtmpl/kvm.xml", "s,\\${swapDisk},/etc/shadow,"),
        restored!("/etc/vgrid/vmtmpl/kvm.xml"),
        ("/etc/shadow", "edit /etc/vgrid/vmtmpl/kvm.xml"),
    ),
    case(
        "templates for libvirt",
        edited!("/etc/vgrid/vmtmpl/kvm.xml", "s/bus=.virtio./bus=\"none-such\"/"),
        restored!("/etc/vgrid/vmtmpl/kvm.xml"),
        ("none-such", "edit /etc/vgrid/vmtmpl/kvm.xml"),
    ),
    case(
        "bridge",
        edited!("/etc/vgrid/vmtmpl/kvm.xml", "s/br0/br7/"),
        restored!("/etc/vgrid/vmtmpl/kvm.xml"),
        ("kvm.xml names the bridge \"br7\"", "INSTALL.md, \"A KVM host by hand\""),
    ),
    // Storage.
    // As without the kernel's module.
    case(
        "loop devices",
        "mkdir /dev/away; mv /dev/loop* /dev/away/",
        "mv /dev/away/* /dev/; rmdir /dev/away",
        ("", "modprobe loop"),
    ),
    case(
        "loop devices",
        "mv /sbin/losetup /root/",
        "mv /root/losetup /sbin/",
        ("there is no losetup", "apt-get install mount"),
    ),
    case(
        "free space",
        "fallocate -l $(( $(stat -f -c '%a * %S' /var/lib/vgrid-machines) - 500000000 )) /var/lib/vgrid-machines/filler",
        "rm /var/lib/vgrid-machines/filler",
        (
            "MiB are free, and the smallest machine takes",
            "make the file system of /var/lib/vgrid-machines larger",
        ),
    ),
    Case {
        skips: &["free space"],
        ..case(
            "volume group",
            edited!("/etc/vgrid/node.cfg", "s/^storage.*/storage = \"lvm\"\\nvolumeGroupName = \"vg1\"/"),
            restored!("/etc/vgrid/node.cfg"),
            ("vg1", ""),
        )
    },
];

fn run_checks(host: &VirtHost) -> (Names, Names, String) {
    let output = host.try_sh("vgrid-check --node --json");
    read_report(output.status, &output.out)
}

#[test]
fn vgrid_check_names_what_is_broken_and_nothing_else() {
    scenario_with("check", &["--machines", "ext4", "--size", "4G"], |host| {
        // As cron would within minutes.
        host.as_www_data("vgrid-upkeep");
        let report = host.sh("vgrid-check");
        assert!(report.ends_with(" passed, 0 failed, 0 skipped\n"), "{report}");
        let before = host.inventory();
        checks::must_break(&CASES, |line| host.sh(line), || run_checks(host));
        let (failed, skipped, messages) = run_checks(host);
        assert!(failed.is_empty() && skipped.is_empty(), "still fails when all is mended:\n{messages}");
        host.must_be_as(&before);
    });
}
