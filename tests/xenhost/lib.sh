# shellcheck shell=bash disable=SC2034
# lib.sh - settings and helpers shared by the scripts in this folder (sourced, not run).
# Every XENHOST_ setting can be given from the environment.

xenhost=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)    # this folder
project=${xenhost%/tests/xenhost}
PATH=$PATH:/usr/sbin:/sbin

XENHOST_DIR=${XENHOST_DIR:-$project/target/xenhost}      # all that is built and saved
XENHOST_RUN=${XENHOST_RUN:-$XENHOST_DIR/run}             # what belongs to one running host
XENHOST_SSH_PORT=${XENHOST_SSH_PORT:-}                   # 127.0.0.1 port -> dom0 port 22; empty: a free one
XENHOST_HTTP_PORT=${XENHOST_HTTP_PORT:-}                 # 127.0.0.1 port -> dom0 port 80; empty: a free one
XENHOST_FORWARD=${XENHOST_FORWARD:-}                     # more of those: "8081-10.0.2.21:80 ..."
XENHOST_RESTRICT=${XENHOST_RESTRICT:-off}                # on: dom0 and its guests reach nothing outside
XENHOST_LINK=${XENHOST_LINK:-}                           # "SOCKET PEER": eth1 is wired to the host with "PEER SOCKET"
XENHOST_MEM=${XENHOST_MEM:-3072}                         # MiB of the whole machine
XENHOST_DOM0_MEM=${XENHOST_DOM0_MEM:-1024}               # MiB of that for dom0
XENHOST_CPUS=${XENHOST_CPUS:-2}                          # virtual processors
XENHOST_CPU=${XENHOST_CPU:-Nehalem-v1}                   # QEMU's processor model (see README.md: faults)
XENHOST_ACCEL=${XENHOST_ACCEL:-tcg,thread=multi}         # QEMU's accelerator
XENHOST_XEN_ARGS=${XENHOST_XEN_ARGS:-}                   # more of Xen's command line
XENHOST_LINUX_ARGS=${XENHOST_LINUX_ARGS:-}               # more of dom0's command line
XENHOST_WAIT=${XENHOST_WAIT:-600}                        # seconds to wait for a real boot
XENHOST_EXTRA=${XENHOST_EXTRA:-}                         # more packages in dom0, commas between
XENHOST_ROOT_SIZE=${XENHOST_ROOT_SIZE:-8G}               # dom0's disk (sparse)
XENHOST_LVM_SIZE=${XENHOST_LVM_SIZE:-12G}                # the disk of the volume group vg1 (sparse)

XENHOST_DIR=$(realpath -m "$XENHOST_DIR")
XENHOST_RUN=$(realpath -m "$XENHOST_RUN")

say() { printf 'xenhost: %s\n' "$*"; }
die() { printf 'xenhost: %s\n' "$*" >&2; exit 1; }
usage() { printf 'usage: %s\n' "$*" >&2; exit 2; }

# QEMU's options and the lists here have no way, or an ugly one, to quote these.
[[ $XENHOST_DIR$XENHOST_RUN != *[,\"$'\n']* ]] || die "no comma, quote or newline, please, in $XENHOST_DIR or $XENHOST_RUN"
[[ -z $XENHOST_LINK || $XENHOST_LINK =~ ^/[^,[:space:]]+\ /[^,[:space:]]+$ ]] || die "XENHOST_LINK must be two paths without commas: $XENHOST_LINK"

need() {
    local t
    for t in "$@"; do
        command -v "$t" >/dev/null || die "missing on this machine: $t (tests/xenhost/packages demo installs it)"
    done
}

as_root() { if (( EUID == 0 )); then "$@"; else sudo "$@"; fi; }

# dom0 is of the same release as this machine, so that programs built here run there.
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

# The images are kept under the hash of all that they are made from: new scripts make new
# images beside the old ones, which a running or saved host may still stand on.
images_hash() {
    {
        cat "$xenhost/build" "$xenhost"/image/* "$project"/resources/guest/{copyuserkey,*.service}
        echo "$suite $XENHOST_EXTRA $XENHOST_ROOT_SIZE $XENHOST_LVM_SIZE"
    } | sha256sum | cut -c1-12
}
XENHOST_IMAGES=${XENHOST_IMAGES:-$XENHOST_DIR/images-$(images_hash)}
XENHOST_STATES=${XENHOST_STATES:-}    # saved states; empty: beside the images that they need
# states_dir STATE IMAGES - the folder that STATE is in. "ready", the same for all, is always
# beside its images.
states_dir() { if [[ $1 == ready ]]; then echo "$2/states"; else echo "${XENHOST_STATES:-$2/states}"; fi; }
# Small files of a run folder that belong to the state of the host: saved and resumed with it.
state_files=(logins installed)

# What is known of the host that belongs to XENHOST_RUN.
pid_file=$XENHOST_RUN/qemu.pid
console=$XENHOST_RUN/console.log
qemu_log=$XENHOST_RUN/qemu.log
socket_file=$XENHOST_RUN/sockets    # names the short private folder of the sockets
ports_file=$XENHOST_RUN/ports       # "SSH HTTP"
images_file=$XENHOST_RUN/images     # the images that it was made from

# True if QEMU of this very run folder is alive (not just any process with its old number).
running() {
    [[ -s $pid_file ]] && alive "$(<"$pid_file")" "$XENHOST_RUN"
}
alive() {    # alive PID RUN
    [[ -r /proc/$1/cmdline ]] && tr '\0' '\n' 2>/dev/null < "/proc/$1/cmdline" |
        grep -qxF "xenhost:$2"
}
need_running() { running || die "not up: $XENHOST_RUN (tests/xenhost/up starts it)"; }

# A Unix socket's path must be shorter than 108 bytes, and ssh adds 17 while it makes one.
make_socket_dir() {
    local dir=${TMPDIR:-/tmp}
    (( ${#dir} < 60 )) || dir=/tmp
    remove_socket_dir    # of a QEMU that was killed
    mktemp -d "$dir/xenhost.XXXXXX" > "$socket_file"
}

remove_socket_dir() {
    [[ ! -s $socket_file ]] || rm -rf "$(<"$socket_file")"
    rm -f "$socket_file"
}

# dom0 [COMMAND] - run COMMAND on the host, or a shell
# shellcheck disable=SC2120
dom0() {
    local ports control=none images=$XENHOST_IMAGES
    read -ra ports < "$ports_file"
    [[ ! -s $socket_file ]] || control=$(<"$socket_file")/ssh    # 'up' leaves a connection open there
    [[ ! -s $images_file ]] || images=$(<"$images_file")
    ssh -F none -i "$images/id_ed25519" -o IdentitiesOnly=yes -o BatchMode=yes \
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
        -o ConnectTimeout=10 -o ServerAliveInterval=30 -o ControlPath="$control" \
        -p "${ports[0]}" -l root "${ssh_more[@]}" 127.0.0.1 "$@"
}
ssh_more=()    # more options for ssh

# Close the open connection that the others go through, and wait until its process is gone.
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

wait_end() {    # wait_end SECONDS - until QEMU has ended
    local end=$(( SECONDS + $1 ))
    while running; do
        (( SECONDS < end )) || return 1
        sleep 0.1
    done
}

# End QEMU and everything around it, whatever state it is in.
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

clear_run() {    # forget a run whose QEMU has ended
    remove_socket_dir
    rm -rf --one-file-system "$XENHOST_RUN"
}
