"""strike.py MISHAP MACHINE:ORDER:STAGE... - runs on the host, as root, behind strike_lib.py.

Holds each MACHINE (its name, because its id is not known yet) in STAGE of ORDER: once its record
names them and, if the stage has a helper, that is running, the helper and all that it runs are
stopped with SIGSTOP, or the worker where there is no helper. When all are held, MISHAP happens,
and then they go on:
  worker    the workers are killed; their helpers go on
  helper    the helpers are killed, every other one with all that it ran; what others ran goes on
  disk      the disk of the machines is full, until all workers have ended
  killed    libvirtd is killed, and started again when all workers have ended
  restarted libvirtd is restarted
  hanging   libvirtd is stopped with SIGSTOP, until all workers have ended
Prints "armed" when it starts watching, "held N" whenever another is held, and "struck" when the
mishap is over. Exit status 1: a stage passed before it could be held.
"""

FILLER = "/var/lib/vgrid-machines/filler"
# Seconds between two looks, and in total.
PAUSE, LIMIT = 0.002, 400
# How long a machine that is in its stage is watched closely: some helpers run for milliseconds.
CLOSELY = 0.15

mishap = sys.argv[1]
targets = [target.split(":") for target in sys.argv[2:]]


def records():
    """The records, by the machines' names."""
    found = {}
    for file in glob.glob("/var/lib/vgrid/node/jobs/*.json"):
        try:
            with open(file, encoding="utf-8") as text:
                record = json.load(text)
        except (OSError, ValueError):
            continue
        # A failed machine may have the name, too.
        if record["machine"] not in found or found[record["machine"]]["id"] < record["id"]:
            found[record["machine"]] = record
    return found


def stat(pid):
    """Parent and session of a process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as text:
            fields = text.read().rsplit(")", 1)[1].split()
        return int(fields[1]), int(fields[3])
    except OSError:
        return 0, 0


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def works(record):
    exe, arguments = program(record["worker"])
    return exe == WORKER and record["id"] in arguments


class Held:
    """A worker with its helper and what that runs, at a standstill."""

    def __init__(self, record, helper):
        self.record, self.helper = record, helper
        if helper is None:
            self.others = []
            send([record["worker"]], signal.SIGSTOP)
            return
        send([helper], signal.SIGSTOP)
        self.others = [pid for pid in processes() if pid != helper and stat(pid)[1] == helper]
        send(self.others, signal.SIGSTOP)

    def go_on(self):
        # sudo stops with its program, and has it go on.
        parent = stat(self.helper)[0] if self.helper else 0
        sudo = [parent] if parent > 1 else []
        everyone = [*self.others, *([self.helper] if self.helper else []), *sudo, self.record["worker"]]
        send(everyone, signal.SIGCONT)
        time.sleep(0.1)
        send(everyone, signal.SIGCONT)


# Processes that are known to be no helpers, so that looking for one is quick.
others = set()


def helper_of(record):
    """The running helper of a machine; None if there is none."""
    for pid in processes():
        if pid in others or pid <= record["worker"]:
            continue
        exe, arguments = program(pid)
        if exe == HELPER and record["id"] in arguments:
            return pid
        # What is between fork and exec may still become one.
        if exe not in ("", HELPER, "/usr/bin/sudo", WORKER):
            others.add(pid)
    return None


def hold(record, stage):
    """Holds a machine if its moment has come; None otherwise."""
    if stage == "accepted":
        return Held(record, None) if works(record) else None
    helper = helper_of(record)
    return Held(record, helper) if helper else None


def hold_soon(record, stage):
    """Looks for the moment as often as possible. Returns None if it does not come soon, or was missed."""
    end = time.monotonic() + CLOSELY
    while time.monotonic() < end:
        one = hold(record, stage)
        if one is None:
            continue
        if records()[record["machine"]]["stage"] == stage:
            return one
        # It is the next stage's helper.
        one.go_on()
        return None
    return None


def hold_all():
    """Waits until all are held."""
    held, seen = {}, set()
    end = time.monotonic() + LIMIT
    while len(held) < len(targets):
        found = records()
        for machine, order, stage in targets:
            now = found.get(machine)
            if machine in held or now is None:
                continue
            state = (now["work"], now["stage"], now["done"])
            if state == (order, stage, False) and now["worker"] is not None:
                seen.add(machine)
                one = hold_soon(now, stage)
                if one is not None:
                    held[machine] = one
                    print("held", len(held), flush=True)
            elif machine in seen:
                sys.exit(f"{order} {stage} of {machine} passed: {now}")
        if time.monotonic() > end:
            missing = [target for target in targets if target[0] not in held]
            sys.exit(f"not within {LIMIT} s: {missing}; {[found.get(target[0]) for target in missing]}")
        time.sleep(PAUSE)
    return list(held.values())


def rest(held):
    """Waits until all workers have ended."""
    end = time.monotonic() + LIMIT
    while any(works(one.record) for one in held):
        if time.monotonic() > end:
            sys.exit(f"still at work: {[one.record['machine'] for one in held if works(one.record)]}")
        time.sleep(0.1)


def daemon():
    return int(subprocess.check_output(["pgrep", "-x", "libvirtd"]))


def end_daemon(number):
    pid = daemon()
    os.kill(pid, number)
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.05)


def start_daemon():
    subprocess.run(["libvirtd", "-d"], check=True)
    subprocess.run(["virsh", "-q", "list"], check=True, stdout=subprocess.DEVNULL)


def go_on(held):
    for one in held:
        one.go_on()


print("armed", flush=True)
held = hold_all()
match mishap:
    case "worker":
        send([one.record["worker"] for one in held], signal.SIGKILL)
        go_on(held)
    case "helper":
        for number, one in enumerate(held):
            send([one.helper, *(one.others if number % 2 else [])], signal.SIGKILL)
        go_on(held)
    case "disk":
        try:
            fill(FILLER)
            go_on(held)
            rest(held)
        finally:
            os.unlink(FILLER)
    case "killed":
        end_daemon(signal.SIGKILL)
        go_on(held)
        rest(held)
        start_daemon()
    case "restarted":
        end_daemon(signal.SIGTERM)
        start_daemon()
        go_on(held)
    case "hanging":
        os.kill(daemon(), signal.SIGSTOP)
        try:
            go_on(held)
            rest(held)
        finally:
            os.kill(daemon(), signal.SIGCONT)
    case _:
        sys.exit(f"no such mishap: {mishap}")
print("struck", flush=True)
