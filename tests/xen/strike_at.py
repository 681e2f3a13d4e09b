"""strike_at.py MACHINE ORDER STAGE MISHAP - runs in dom0, as root.

Waits until the record of MACHINE (its name, for its id is not known yet) says ORDER and STAGE and, where the stage has one, its
helper is at work. Then MISHAP happens:
  worker   the worker is killed, and only it
  helper   the helper is killed, and only it
  service  Apache's whole control group is stopped, and started again a little later
  disk     the root file system is full until the worker is gone
Prints "armed" when it begins to look, and "struck ..." when it is over. Exit status 1: the stage went by.
"""

import errno
import glob
import json
import os
import signal
import subprocess
import sys
import time

WORKER = "/usr/lib/vgrid/vgrid-worker"
HELPER = "/usr/lib/vgrid/vgrid-helper"
FILLER = "/var/filler"
# Seconds between two looks, and in all.
PAUSE, LIMIT = 0.02, 300

machine, work, stage, mishap = sys.argv[1:]


def record():
    """The machine's record; None if there is none (yet), or it has just been replaced."""
    for file in glob.glob("/var/lib/vgrid/node/jobs/*.json"):
        try:
            with open(file, encoding="utf-8") as text:
                found = json.load(text)
        except (OSError, ValueError):
            continue
        if found["machine"] == machine:
            return found
    return None


def program(pid):
    """The program that a process runs, and its arguments."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as text:
            return os.readlink(f"/proc/{pid}/exe"), text.read().split("\0")
    except OSError:
        return "", []


def helpers(found):
    """The helpers at work on the machine. They are younger than its worker."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) > found["worker"]]
    for pid in pids:
        exe, arguments = program(pid)
        if exe == HELPER and found["id"] in arguments:
            yield pid


def fill(file):
    """Takes all space of the root file system, root's reserve too."""
    with open(file, "wb") as filler:
        for size in (1 << 30, 1 << 26, 1 << 22, 1 << 18, 1 << 12):
            while True:
                try:
                    os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break


def full_disk(found):
    """Keeps the disk full until the worker is gone."""
    try:
        fill(FILLER)
        end = time.monotonic() + LIMIT
        while program(found["worker"])[0] == WORKER and time.monotonic() < end:
            time.sleep(0.2)
    finally:
        os.unlink(FILLER)


def strike(found):
    """Strikes, if the moment has come; says whom."""
    at_work = [] if stage == "accepted" else list(helpers(found))
    if stage != "accepted" and not at_work:
        return None
    if mishap == "service":
        subprocess.run(["systemctl", "stop", "apache2"], check=True)
        time.sleep(2)
        subprocess.run(["systemctl", "start", "apache2"], check=True)
        return "the service"
    if mishap == "disk":
        full_disk(found)
        return "the disk"
    pids = at_work
    if mishap == "worker":
        exe, arguments = program(found["worker"])
        if exe != WORKER or found["id"] not in arguments:
            sys.exit(f"{found['worker']} is not the worker of {machine}: {exe} {arguments}")
        pids = [found["worker"]]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return f"{mishap} {pids}"


print("armed", flush=True)
seen = False
end = time.monotonic() + LIMIT
while time.monotonic() < end:
    now = record()
    there = now is not None and (now["work"], now["stage"], now["done"]) == (work, stage, False) and now["worker"] is not None
    if there:
        struck = strike(now)
        if struck:
            print("struck", struck, "in", work, stage, flush=True)
            sys.exit(0)
    elif seen:
        sys.exit(f"{work} {stage} of {machine} went by: {now}")
    seen = seen or there
    time.sleep(PAUSE)
sys.exit(f"{work} {stage} of {machine} did not come within {LIMIT} s")
