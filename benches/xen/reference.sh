#!/bin/bash
# reference.sh make NAME IP IMAGE-FILE MEMORY GIB | end NAME - what an administrator without vGrid would
# write: one machine on LVM, from an archive to xl create, and its end. Says "ready" and "started", or
# "gone", with the time.
set -euo pipefail
act=$1 name=$2
mark() { echo "$1 $EPOCHREALTIME"; }
log=/var/log/xen/console/guest-$name.log
case $act in
    make)
        ip=$3 image=$4 memory=$5 gib=$6
        rm -f "$log"
        lvcreate -qq -y -L "${gib}g" -n "root-$name" vg1
        lvcreate -qq -y -L 64m -n "swap-$name" vg1
        mkfs.ext4 -q "/dev/vg1/root-$name"
        mkswap "/dev/vg1/swap-$name" > /dev/null
        mkdir "/mnt/$name"
        mount "/dev/vg1/root-$name" "/mnt/$name"
        tar -xzf "$image" -C "/mnt/$name"
        umount "/mnt/$name"
        rmdir "/mnt/$name"
        mark ready
        cat > "/root/$name.cfg" <<CFG
name = "$name"
memory = $memory
vcpus = 1
bootloader = "pygrub"
disk = [ "phy:/dev/vg1/root-$name,xvda1,w", "phy:/dev/vg1/swap-$name,xvda2,w" ]
root = "/dev/xvda1 ro"
vif = [ "bridge=xenbr0" ]
extra = "ip=$ip::10.0.2.2:255.255.255.0:$name:eth0:off console=hvc0"
on_poweroff = "destroy"
CFG
        xl create -q "/root/$name.cfg" > /dev/null
        mark started
        ;;
    end)
        xl shutdown -w "$name" > /dev/null
        lvremove -qq -f "vg1/root-$name" "vg1/swap-$name"
        rm "/root/$name.cfg" "$log"
        # xl has only seen it shut down. Its domain is destroyed meanwhile.
        while xl domid "$name" > /dev/null 2>&1; do sleep 0.1; done
        mark gone
        ;;
esac
