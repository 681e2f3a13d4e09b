"""strike_at.py MACHINE ORDER STAGE MISHAP - runs in dom0, as root, behind strike_lib.py.

Waits until the record of MACHINE (its name, because its id is not known yet) shows ORDER and
STAGE and, if the stage has a helper, that is running. Then MISHAP happens:
  worker   only the worker is killed
  helper   only the helper is killed
  service  Apache's whole control group is stopped, and started again shortly afterward
  disk     the root file system is full until the worker has ended
  pool     the thin pool vg1/pool is full until the worker has ended
  metadata that pool has too little space for metadata until then
  power    the helper is stopped, so that the stage lasts until somebody cuts the power
Prints "armed" when it starts watching, and "struck ..." when the mishap is over. Exit status 1: the
stage passed before it could strike.
"""

FILLER = "/var/filler"
# Seconds between two checks, and in total.
PAUSE, LIMIT = 0.02, 300

machine, work, stage, mishap = sys.argv[1:]


def record():
    """The machine's record; None if there is none yet, or it is just being replaced."""
    for file in glob.glob("/var/lib/vgrid/node/jobs/*.json"):
        try:
            with open(file, encoding="utf-8") as text:
                found = json.load(text)
        except (OSError, ValueError):
            continue
        if found["machine"] == machine:
            return found
    return None


def helpers(found):
    """The running helpers of the machine. Their process ids are higher than the worker's."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) > found["worker"]]
    for pid in pids:
        exe, arguments = program(pid)
        if exe == HELPER and found["id"] in arguments:
            yield pid


def until_it_ends(found):
    """Waits until the worker has ended."""
    end = time.monotonic() + LIMIT
    while program(found["worker"])[0] == WORKER and time.monotonic() < end:
        time.sleep(0.2)


def full_disk(found):
    """Keeps the disk full until the worker has ended."""
    try:
        fill(FILLER)
        until_it_ends(found)
    finally:
        os.unlink(FILLER)


def callers(pid, worker):
    """The processes between the worker and one that it has started: sudo stops when its program does."""
    while True:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as text:
            pid = int(text.read().rpartition(")")[2].split()[1])
        if pid in (0, 1, worker):
            return
        yield pid


def lvm(*words, check=True):
    return subprocess.run(words, check=check, stderr=subprocess.DEVNULL).returncode


def make_filler(size):
    lvm("lvcreate", "-qq", "-y", "-V", size, "--thinpool", "pool", "-n", "filler", "vg1")


def fill_data():
    make_filler("8g")
    # It ends when there is no more space.
    write = ["dd", "if=/dev/zero", "of=/dev/vg1/filler", "bs=4M", "oflag=direct"]
    subprocess.run(write, check=False, stderr=subprocess.DEVNULL)


def fill_metadata():
    """Makes snapshots of a volume, and writes to it here and there: each write needs a block of metadata."""
    chunk, chunks, apart = 1 << 16, 8192, 60
    zeros = mmap.mmap(-1, chunk)
    make_filler("512m")
    filler = os.open("/dev/vg1/filler", os.O_RDWR | os.O_DIRECT)
    # What is written at once is committed at once.
    with ThreadPoolExecutor(32) as threads:
        write = lambda place: os.pwritev(filler, [zeros], place * chunk)
        list(threads.map(write, range(chunks)))
        count = 0
        # LVM says when there is too little.
        while lvm("lvcreate", "-qq", "-y", "-s", "-n", f"filler.{count}", "vg1/filler", check=False) == 0:
            list(threads.map(write, range(0, chunks, apart)))
            count += 1
    os.close(filler)


def full_pool(found, pids, fill_it):
    """Keeps the pool full until the worker has ended. Its helper waits meanwhile, to find it so."""
    stopped = [*pids, *(caller for pid in pids for caller in callers(pid, found["worker"]))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        fill_it()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        until_it_ends(found)
    finally:
        lvm("lvremove", "-qq", "-f", "--select", "lv_name=~^filler", "vg1")


def strike(found):
    """Strikes if the moment has come. Returns what was struck, or None."""
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
    if mishap in ("pool", "metadata"):
        full_pool(found, at_work, fill_data if mishap == "pool" else fill_metadata)
        return f"the {mishap}"
    if mishap == "power":
        for pid in at_work:
            os.kill(pid, signal.SIGSTOP)
        return f"{mishap} {at_work}"
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
    reached = now is not None and (now["work"], now["stage"], now["done"]) == (work, stage, False) and now["worker"] is not None
    if reached:
        struck = strike(now)
        if struck:
            print("struck", struck, "in", work, stage, flush=True)
            sys.exit(0)
    elif seen:
        sys.exit(f"{work} {stage} of {machine} passed: {now}")
    seen = seen or reached
    time.sleep(PAUSE)
sys.exit(f"{work} {stage} of {machine} did not come within {LIMIT} s")
