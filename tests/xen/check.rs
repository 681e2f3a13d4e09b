//! `vgrid-check` on a real Xen host: everything passes after the installation, and when one thing
//! at a time is broken and mended, only what depends on it does not.

use super::host::{Host, scenario};
use crate::support::checks::{self, Case, Names, case, read_report};

/// Checks that need the answer of a node.
const NODE_INFO: &[&str] = &["nodes' version", "nodes' common.cfg"];

pub const CASES: [Case; 37] = [
    case("configuration's rights", "chmod g+w /etc/vgrid/server.cfg", "chmod g-w /etc/vgrid/server.cfg"),
    Case {
        fails: &["Apache's configuration", "nodes tell what they have"],
        skips: &[
            "key's rights",
            "Apache's modules",
            "portal's site",
            "node's site",
            "sign-in",
            "registry",
            "records",
            "images",
            "saved images",
            "file system programs",
            "file systems",
            "templates",
            "templates for the toolstack",
            "bridge",
            "sudo",
            "helper answers",
            "nodes' version",
            "nodes' common.cfg",
        ],
        ..case(
            "web server's user",
            "sed -i s/^www-data:/www-date:/ /etc/passwd",
            "sed -i s/^www-date:/www-data:/ /etc/passwd",
        )
    },
    // As Debian's installer writes it, but for another host.
    case(
        "hosts' names",
        "sed -i 's/^\\[PhysicalHostsPool\\]/&\\n\"node9\" = 1/' /etc/vgrid/common.cfg; echo 127.0.1.1 node9 >> /etc/hosts",
        "sed -i /node9/d /etc/vgrid/common.cfg /etc/hosts",
    ),
    case(
        "machines' names",
        "sed -i 's/^\\[VirtualHostsPool\\]/&\\n\"vm77\" = \"\"/' /etc/vgrid/common.cfg; echo 127.0.1.1 vm77 >> /etc/hosts",
        "sed -i /vm77/d /etc/vgrid/common.cfg /etc/hosts",
    ),
    case("key's rights", "chmod 644 /etc/vgrid/key", "chmod 640 /etc/vgrid/key"),
    case("key's rights", "chown www-data /etc/vgrid/key", "chown root /etc/vgrid/key"),
    Case {
        skips: &["Apache's modules", "portal's site", "node's site"],
        ..case(
            "Apache's configuration",
            "echo NoSuchDirective > /etc/apache2/conf-enabled/broken.conf",
            "rm /etc/apache2/conf-enabled/broken.conf",
        )
    },
    case("Apache's modules", "a2dismod -q -f cgid", "a2enmod -q cgid"),
    case("portal's site", "a2disconf -q vgrid-server", "a2enconf -q vgrid-server"),
    case("node's site", "a2disconf -q vgrid-node", "a2enconf -q vgrid-node"),
    case("sign-in", "mv /etc/vgrid/htpasswd /root/", "mv /root/htpasswd /etc/vgrid/"),
    case(
        "sign-in",
        "rm /usr/lib/vgrid/cgi-bin/user/.htaccess",
        "ln -s /etc/vgrid/htaccess /usr/lib/vgrid/cgi-bin/user/.htaccess",
    ),
    case(
        "portal's programs",
        "mv /usr/lib/vgrid/cgi-bin/user/show /root/",
        "mv /root/show /usr/lib/vgrid/cgi-bin/user/",
    ),
    case("registry", "chmod 755 /var/lib/vgrid", "chmod 700 /var/lib/vgrid"),
    case("records", "chmod 755 /var/lib/vgrid/node", "chmod 700 /var/lib/vgrid/node"),
    // The node takes orders only from vm1. The portal is still where it was.
    Case {
        skips: &[
            "nodes' keys",
            "nodes' registry",
            "nodes tell what they have",
            "nodes' version",
            "nodes' common.cfg",
        ],
        ..case(
            "nodes take orders from here",
            "cp -p /etc/vgrid/node.cfg /root/ && sed -i 's,^serverHostname.*,serverHostname = \"vm1\"\\n\
             serverURL = \"http://xenhost/cgi-bin/internal\",' /etc/vgrid/node.cfg",
            "mv /root/node.cfg /etc/vgrid/",
        )
    },
    Case {
        fails: &["server's key"],
        skips: &["nodes' registry", "nodes tell what they have", "nodes' version", "nodes' common.cfg"],
        ..case(
            "nodes' keys",
            "cp -p /etc/vgrid/node.cfg /root/ && cp -p /etc/vgrid/key /etc/vgrid/other && echo 1 >> /etc/vgrid/other && \
             sed -i 's,^serverHostname,keyFile = \"/etc/vgrid/other\"\\nserverHostname,' /etc/vgrid/node.cfg",
            "mv /root/node.cfg /etc/vgrid/ && rm /etc/vgrid/other",
        )
    },
    case("saved images", "chmod g-w /var/lib/vgrid/images", "chmod g+w /var/lib/vgrid/images"),
    case("packing", "mv /usr/bin/tar /root/", "mv /root/tar /usr/bin/"),
    Case {
        skips: &["templates for the toolstack", "bridge"],
        ..case(
            "templates",
            "cp -p /etc/vgrid/vmtmpl/xen-xvda /root/ && sed -i 's/^netmask = .*/netmask = \"NETMASK\"/' /etc/vgrid/vmtmpl/xen-xvda",
            "mv /root/xen-xvda /etc/vgrid/vmtmpl/",
        )
    },
    Case {
        skips: &["templates for the toolstack", "bridge"],
        ..case("templates", "mv /etc/vgrid/vmtmpl/xen-xvda /root/", "mv /root/xen-xvda /etc/vgrid/vmtmpl/")
    },
    case(
        "templates for the toolstack",
        "cp -p /etc/vgrid/vmtmpl/xen-xvda /root/ && echo 'memory 128' >> /etc/vgrid/vmtmpl/xen-xvda",
        "mv /root/xen-xvda /etc/vgrid/vmtmpl/",
    ),
    case(
        "bridge",
        "cp -p /etc/vgrid/vmtmpl/xen-xvda /root/ && sed -i s/xenbr0/xenbr7/ /etc/vgrid/vmtmpl/xen-xvda",
        "mv /root/xen-xvda /etc/vgrid/vmtmpl/",
    ),
    Case {
        skips: &["toolstack", "templates for the toolstack"],
        ..case(
            "Xen",
            "touch /run/nothing && mount --bind /run/nothing /proc/xen/capabilities",
            "umount /proc/xen/capabilities && rm /run/nothing",
        )
    },
    Case {
        skips: &["templates for the toolstack"],
        ..case("toolstack", "mv /usr/sbin/xl /usr/sbin/lx", "mv /usr/sbin/lx /usr/sbin/xl")
    },
    case("autostart", "mv /etc/xen/auto /root/", "mv /root/auto /etc/xen/"),
    Case {
        skips: &["console logs"],
        ..case("consoles", "mv /var/log/xen/console /root/", "mv /root/console /var/log/xen/")
    },
    case(
        "console logs",
        "fallocate -l 200M /var/log/xen/console/guest-talker.log",
        "rm /var/log/xen/console/guest-talker.log",
    ),
    case("console logs", "mv /etc/logrotate.d/vgrid /root/", "mv /root/vgrid /etc/logrotate.d/"),
    Case { skips: &["free space"], ..case("volume group", "vgrename -qq vg1 vg9", "vgrename -qq vg9 vg1") },
    case("free space", "lvcreate -qq -y -l 100%FREE -n filler vg1", "lvremove -qq -y vg1/filler"),
    Case {
        skips: &["sudo", "helper answers"],
        ..case(
            "sudo's configuration",
            "echo 'no rule at all' > /etc/sudoers.d/broken && chmod 440 /etc/sudoers.d/broken",
            "rm /etc/sudoers.d/broken",
        )
    },
    Case {
        skips: &["helper answers"],
        ..case(
            "sudo",
            "echo 'www-data ALL=(root) NOPASSWD: /usr/bin/id' > /etc/sudoers.d/more && chmod 440 /etc/sudoers.d/more",
            "rm /etc/sudoers.d/more",
        )
    },
    Case {
        skips: &["helper answers"],
        ..case("helper", "chmod g+w /usr/lib/vgrid/vgrid-helper", "chmod g-w /usr/lib/vgrid/vgrid-helper")
    },
    // The fault is on the node, and the server notices.
    Case {
        fails: &["nodes tell what they have"],
        skips: &["helper answers", "nodes' version", "nodes' common.cfg"],
        ..case("sudo", "mv /etc/sudoers.d/vgrid /root/", "mv /root/vgrid /etc/sudoers.d/")
    },
    Case {
        fails: &["nodes tell what they have"],
        skips: NODE_INFO,
        ..case(
            "helper answers",
            "mv /usr/lib/vgrid/vgrid-helper /root/ && printf '#!/bin/sh\\necho no\\n' > /usr/lib/vgrid/vgrid-helper && \
             chmod 755 /usr/lib/vgrid/vgrid-helper",
            "mv /root/vgrid-helper /usr/lib/vgrid/",
        )
    },
    case("worker", "mv /usr/lib/vgrid/vgrid-worker /root/", "mv /root/vgrid-worker /usr/lib/vgrid/"),
];

/// Runs vgrid-check. Returns the checks that failed, those that were skipped, and their messages.
pub fn run_checks(host: &Host) -> (Names, Names, String) {
    let output = host.try_sh("vgrid-check --json");
    read_report(output.status, &output.out)
}

/// Breaks one thing after the other.
pub fn must_break(host: &Host, cases: &[Case]) {
    checks::must_break(cases, |line| host.sh(line), || run_checks(host));
}

#[test]
fn vgrid_check_names_what_is_broken_and_nothing_else() {
    scenario("check", |host| {
        // As cron would within minutes.
        host.sh("sudo -u www-data vgrid-upkeep");
        let (failed, skipped, messages) = run_checks(host);
        assert!(failed.is_empty() && skipped.is_empty(), "fails right after installation:\n{messages}");
        must_break(host, &CASES);
        let (failed, skipped, messages) = run_checks(host);
        assert!(
            failed.is_empty() && skipped.is_empty(),
            "still fails when everything is mended:\n{messages}"
        );
    });
}
