# shellcheck shell=bash disable=SC2034
# lib.sh - settings and helpers of the scripts in this folder (sourced, not run).
# Every XENHOST_ setting can be set in the environment.

xenhost=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)    # this folder
project=${xenhost%/tests/xenhost}
PATH=$PATH:/usr/sbin:/sbin

XENHOST_DIR=${XENHOST_DIR:-$project/target/xenhost}      # everything built and saved
XENHOST_RUN=${XENHOST_RUN:-$XENHOST_DIR/run}             # the files of one running host
XENHOST_SSH_PORT=${XENHOST_SSH_PORT:-}                   # 127.0.0.1 port -> dom0 port 22; empty: a free one
XENHOST_HTTP_PORT=${XENHOST_HTTP_PORT:-}                 # 127.0.0.1 port -> dom0 port 80; empty: a free one
XENHOST_FORWARD=${XENHOST_FORWARD:-}                     # more forwarded ports: "8081-10.0.2.21:80 ..."
XENHOST_RESTRICT=${XENHOST_RESTRICT:-off}                # on: dom0 and its guests cannot reach the outside
XENHOST_LINK=${XENHOST_LINK:-}                           # "SOCKET PEER": wires eth1 to the host with "PEER SOCKET"
XENHOST_MEM=${XENHOST_MEM:-3072}                         # memory of the machine in MiB
XENHOST_DOM0_MEM=${XENHOST_DOM0_MEM:-1024}               # memory of dom0 in MiB
XENHOST_CPUS=${XENHOST_CPUS:-2}                          # virtual processors
XENHOST_CPU=${XENHOST_CPU:-Nehalem-v1}                   # QEMU's processor model (see README.md: faults)
XENHOST_ACCEL=${XENHOST_ACCEL:-tcg,thread=multi}         # QEMU's accelerator
XENHOST_XEN_ARGS=${XENHOST_XEN_ARGS:-}                   # additions to Xen's command line
XENHOST_LINUX_ARGS=${XENHOST_LINUX_ARGS:-}               # additions to dom0's command line
XENHOST_WAIT=${XENHOST_WAIT:-600}                        # seconds to wait for a boot
XENHOST_EXTRA=${XENHOST_EXTRA:-}                         # more packages in dom0, separated by commas
XENHOST_ROOT_SIZE=${XENHOST_ROOT_SIZE:-8G}               # dom0's disk (sparse)
XENHOST_LVM_SIZE=${XENHOST_LVM_SIZE:-12G}                # the disk of the volume group vg1 (sparse)
XENHOST_STORAGE=${XENHOST_STORAGE:-lvm}                  # where install-vgrid has disks made: lvm, or thin (a pool)

XENHOST_DIR=$(realpath -m "$XENHOST_DIR")
XENHOST_RUN=$(realpath -m "$XENHOST_RUN")

say() { printf 'xenhost: %s\n' "$*"; }
die() { printf 'xenhost: %s\n' "$*" >&2; exit 1; }
usage() { printf 'usage: %s\n' "$*" >&2; exit 2; }

# QEMU options and the lists here cannot quote these characters, or not easily.
[[ $XENHOST_DIR$XENHOST_RUN != *[,\"$'\n']* ]] || die "no comma, quote or newline, please, in $XENHOST_DIR or $XENHOST_RUN"
[[ -z $XENHOST_LINK || $XENHOST_LINK =~ ^/[^,[:space:]]+\ /[^,[:space:]]+$ ]] || die "XENHOST_LINK must be two paths without commas: $XENHOST_LINK"

need() {
    local t
    for t in "$@"; do
        command -v "$t" >/dev/null || die "missing on this machine: $t (tests/xenhost/packages demo installs it)"
    done
}

as_root() { if (( EUID == 0 )); then "$@"; else sudo "$@"; fi; }

# dom0 has the same release as this machine, so that programs built here run there.
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

# The images are named after a hash of everything they are made from: changed scripts make new
# images beside the old ones, which a running or saved host may still use.
images_hash() {
    {
        cat "$xenhost/build" "$xenhost"/image/* "$project"/resources/guest/{copyuserkey,*.service}
        echo "$suite $XENHOST_EXTRA $XENHOST_ROOT_SIZE $XENHOST_LVM_SIZE"
    } | sha256sum | cut -c1-12
}
XENHOST_IMAGES=${XENHOST_IMAGES:-$XENHOST_DIR/images-$(images_hash)}
XENHOST_STATES=${XENHOST_STATES:-}    # saved states; empty: next to their images
# states_dir STATE IMAGES - the folder of STATE. "ready", which all runs share, is always next to
# its images.
states_dir() { if [[ $1 == ready ]]; then echo "$2/states"; else echo "${XENHOST_STATES:-$2/states}"; fi; }
# Small files of a run folder that are saved and resumed with the host.
state_files=(logins installed)

# Files about the host of XENHOST_RUN.
pid_file=$XENHOST_RUN/qemu.pid
console=$XENHOST_RUN/console.log
qemu_log=$XENHOST_RUN/qemu.log
socket_file=$XENHOST_RUN/sockets    # the path of the private folder of sockets
ports_file=$XENHOST_RUN/ports       # "SSH HTTP"
images_file=$XENHOST_RUN/images     # the folder of its images

# True if the QEMU of this run folder is alive, not just another process with its old id.
running() {
    [[ -s $pid_file ]] && alive "$(<"$pid_file")" "$XENHOST_RUN"
}
alive() {    # alive PID RUN
    [[ -r /proc/$1/cmdline ]] && tr '\0' '\n' 2>/dev/null < "/proc/$1/cmdline" |
        grep -qxF "xenhost:$2"
}
need_running() { running || die "not up: $XENHOST_RUN (tests/xenhost/up starts it)"; }

# A Unix socket's path must be shorter than 108 bytes, and ssh temporarily adds 17.
make_socket_dir() {
    local dir=${TMPDIR:-/tmp}
    (( ${#dir} < 60 )) || dir=/tmp
    remove_socket_dir    # left by a killed QEMU
    mktemp -d "$dir/xenhost.XXXXXX" > "$socket_file"
}

remove_socket_dir() {
    [[ ! -s $socket_file ]] || rm -rf "$(<"$socket_file")"
    rm -f "$socket_file"
}

# dom0 [COMMAND] - run COMMAND, or a shell, on the host
# shellcheck disable=SC2120
dom0() {
    local ports control=none images=$XENHOST_IMAGES
    read -ra ports < "$ports_file"
    [[ ! -s $socket_file ]] || control=$(<"$socket_file")/ssh    # the master connection that 'up' left open
    [[ ! -s $images_file ]] || images=$(<"$images_file")
    ssh -F none -i "$images/id_ed25519" -o IdentitiesOnly=yes -o BatchMode=yes \
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
        -o ConnectTimeout=10 -o ServerAliveInterval=30 -o ControlPath="$control" \
        -p "${ports[0]}" -l root "${ssh_more[@]}" 127.0.0.1 "$@"
}
ssh_more=()    # more options for ssh

# Close the master connection, and wait until its process is gone.
close_connection() {
    local pid n
    [[ -s $socket_file && -S $(<"$socket_file")/ssh ]] || return 0
    # shellcheck disable=SC2119
    pid=$(ssh_more=(-O check); dom0 2>&1 | sed -n 's/.*(pid=\([0-9]*\)).*/\1/p') || true    # it may end meanwhile
    # shellcheck disable=SC2119
    (ssh_more=(-O exit); dom0 >/dev/null 2>&1) || true
    for n in {1..50}; do
        [[ -n $pid && -d /proc/$pid ]] || return 0
        sleep 0.1
    done
    kill "$pid" 2>/dev/null || true
}

wait_end() {    # wait_end SECONDS - wait until QEMU has ended
    local end=$(( SECONDS + $1 ))
    while running; do
        (( SECONDS < end )) || return 1
        sleep 0.1
    done
}

# End QEMU and everything that belongs to it, whatever state it is in.
stop_host() {
    local pid=''
    close_connection
    if running; then
        pid=$(<"$pid_file")
        kill "$pid" 2>/dev/null || true
        wait_end 15 || kill -KILL "$pid" 2>/dev/null || true
        wait_end 15 || die "QEMU (process $pid) does not end"
    fi
    remove_socket_dir
    rm -f "$pid_file"
}

clear_run() {    # delete a run whose QEMU has ended
    remove_socket_dir
    rm -rf --one-file-system "$XENHOST_RUN"
}
