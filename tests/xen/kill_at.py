"""kill_at.py MACHINE ORDER STAGE VICTIM - runs in dom0, as root.

Waits until the record of MACHINE (its name, for its id is not known yet) says ORDER and STAGE, then kills VICTIM:
  worker   the worker, and only it, while the helper is at work; in a stage without a helper at once
  helper   the helper, and only it
  service  Apache's whole control group, as its restart does
Prints "armed" when it begins to look, and "killed ..." when it has done so. Exit status 1: the stage went by.
"""

import glob
import json
import os
import signal
import subprocess
import sys
import time

WORKER = "/usr/lib/vgrid/vgrid-worker"
HELPER = "/usr/lib/vgrid/vgrid-helper"
# Seconds between two looks, and in all.
PAUSE, LIMIT = 0.02, 300

machine, work, stage, victim = sys.argv[1:]


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


def strike(found):
    """Kills, if the moment has come; says whom."""
    at_work = [] if stage == "accepted" else list(helpers(found))
    if stage != "accepted" and not at_work:
        return None
    if victim == "service":
        subprocess.run(["systemctl", "restart", "apache2"], check=True)
        return "the service"
    pids = at_work
    if victim == "worker":
        exe, arguments = program(found["worker"])
        if exe != WORKER or found["id"] not in arguments:
            sys.exit(f"{found['worker']} is not the worker of {machine}: {exe} {arguments}")
        pids = [found["worker"]]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return f"{victim} {pids}"


print("armed", flush=True)
seen = False
end = time.monotonic() + LIMIT
while time.monotonic() < end:
    now = record()
    there = now is not None and (now["work"], now["stage"], now["done"]) == (work, stage, False) and now["worker"] is not None
    if there:
        struck = strike(now)
        if struck:
            print("killed", struck, "in", work, stage, flush=True)
            sys.exit(0)
    elif seen:
        sys.exit(f"{work} {stage} of {machine} went by: {now}")
    seen = seen or there
    time.sleep(PAUSE)
sys.exit(f"{work} {stage} of {machine} did not come within {LIMIT} s")
