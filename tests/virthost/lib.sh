# shellcheck shell=bash disable=SC2034
# lib.sh - settings and helpers of the scripts in this folder (sourced, not run).

virthost=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)    # this folder
project=${virthost%/tests/virthost}
PATH=$PATH:/usr/sbin:/sbin

VIRTHOST_DIR=$(realpath -m "${VIRTHOST_DIR:-$project/target/virthost}")    # downloads and images
VGRID_PASSWORD=${VGRID_PASSWORD:-for-tests-only}                           # of alice, bob and admin

say() { printf 'virthost: %s\n' "$*"; }
die() { printf 'virthost: %s\n' "$*" >&2; exit 1; }
usage() { printf 'usage: %s\n' "$*" >&2; exit 2; }

need() {
    local t
    (( EUID == 0 )) || die "this needs root"
    for t in "$@"; do
        command -v "$t" >/dev/null || die "missing on this machine: $t (tests/xenhost/packages test installs it)"
    done
}

# The guests have the same release as this machine.
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")

# What the guest images are made from. Changed scripts make new images beside the old ones.
sources=("$virthost/build" "$virthost"/image/* "$project/tests/xenhost/image/guest-net"
    "$project/resources/guest/copyuserkey")
images=$VIRTHOST_DIR/images-$({ cat "${sources[@]}"; echo "$suite"; } | sha256sum | cut -c1-12)

# host DIR - set 'dir', the run folder of a host, and 'init', the id of its first process; 'init' is
# empty if there is none.
host() {
    [[ -n ${1:-} ]] || usage "$(basename "$0") DIR ..."
    dir=$(realpath -m "$1")
    # Options of mount cannot quote these characters, or not easily.
    [[ $dir != *[,:\\\"$'\n']* ]] || die "no comma, colon, quote, backslash or newline, please, in $dir"
    init=''
    [[ ! -s $dir/init ]] || init=$(<"$dir/init")
    # Another process may have got its id since.
    [[ -n $init && -r /proc/$init/cmdline ]] && tr '\0' '\n' 2>/dev/null < "/proc/$init/cmdline" | grep -qxF "$dir" ||
        init=''
}
