# shellcheck shell=bash
# guest-lib.sh - what both guest images share (sourced by guest-tiny and guest-debian).
image=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

kernel_of() { basename "$(echo "$1"/boot/vmlinuz-*)" | sed s/^vmlinuz-//; }

# copy_modules DOM0 DST MODULE... - the modules and what they depend on, unpacked (busybox
# cannot read compressed ones), with an index for modprobe.
copy_modules() {
    local dom0=$1 dst=$2 version f to
    shift 2
    version=$(kernel_of "$dom0")
    for m in "$@"; do
        # A kernel may have one built in, or no longer have it.
        modprobe -d "$dom0" -S "$version" --show-depends "$m" 2>/dev/null |
            awk '$1 == "insmod" {print $2}' || true
    done | sort -u | while read -r f; do
        to=$dst/lib/modules/${f#*/lib/modules/}
        mkdir -p "$(dirname "$to")"
        case $f in
            *.xz) xz -dc "$f" > "${to%.xz}" ;;
            *.zst) zstd -qdc "$f" > "${to%.zst}" ;;
            *) cp "$f" "$to" ;;
        esac
    done
    cp "$dom0/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$dst/lib/modules/$version/"
    depmod -b "$dst" "$version"
    [[ -n $(find "$dst/lib/modules" -name xen-blkfront.ko) ]] ||
        { echo "no module xen-blkfront for $version in $dom0" >&2; return 1; }
}

# The kernel proper from Debian's bzImage (Documentation/arch/x86/boot.rst). The host unpacks it
# at every start of a guest: emulated, that takes 1 s for gzip, and 4 s for Debian's own xz.
unpacked_kernel() {
    local sects offset length
    number() { od -An -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }
    sects=$(number "$1" 497 1)
    offset=$(( (sects + 1) * 512 + $(number "$1" 584 4) ))
    length=$(( $(number "$1" 588 4) - 4 ))    # less the size that is appended
    payload() { dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip="$offset" count="$length" status=none; }
    case $(od -An -tx1 -j "$offset" -N 4 "$1" | tr -d ' ') in
        fd377a58) payload "$1" | xz -dc ;;
        28b52ffd) payload "$1" | zstd -dc ;;
        1f8b*) payload "$1" | gzip -dc ;;
        *) echo "an unknown compression of $1" >&2; return 1 ;;
    esac
}

# boot_files DOM0 ROOT TITLE - the kernel, a small initrd of our own (busybox, the Xen drivers,
# ext4), and the menus for pygrub (menu.lst) and for GRUB's PV loader (grub.cfg), in ROOT/boot. They
# give no root=: the machine's configuration does, and the initrd finds the disk whatever it is called.
boot_files() {
    local dom0=$1 root=$2 title=$3 i
    i=$(mktemp -d "$root.initrd.XXXXXX")
    chmod 755 "$i"
    mkdir -p "$i/bin" "$root/boot/grub"
    cp "$dom0/bin/busybox" "$i/bin/busybox"
    install -m 755 "$image/guest-initrd-init" "$i/init"
    copy_modules "$dom0" "$i" crc32c_generic crc32c_intel xen-blkfront xen-netfront ext4
    (cd "$i" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet | gzip -9n) > "$root/boot/initrd.img"
    rm -rf "$i"
    unpacked_kernel "$dom0"/boot/vmlinuz-* | gzip -6n > "$root/boot/vmlinuz"
    cat > "$root/boot/grub/menu.lst" <<MENU
default 0
timeout 0
title $title
    root (hd0)
    kernel /boot/vmlinuz
    initrd /boot/initrd.img
MENU
    cat > "$root/boot/grub/grub.cfg" <<MENU
set timeout=0
menuentry "$title" {
    linux /boot/vmlinuz \$xen_grub_env_cmdline
    initrd /boot/initrd.img
}
MENU
}

pack() {    # pack ROOT FILE
    tar -C "$1" --numeric-owner --sort=name -cf - . | gzip -6n > "$2"
}
