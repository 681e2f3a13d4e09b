"""measure.py one|many vgrid|script IMAGE MEMORY GIB COUNT - runs on the host itself, by its clock.

one: makes a machine and removes it again. Prints when its disk was ready, when it was started, when it
spoke and when it was gone, in seconds after the order (the last: after that to remove it).
many: makes COUNT machines; by vGrid all ordered at once, by the script one after the other. Prints when
the last one was started.
"""

import base64
import glob
import http.client
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

PASSWORD = os.environ["VGRID_PASSWORD"]
JOBS = "/var/lib/vgrid/node/jobs"
BANNER = b"GUEST READY"
PAST_DISKS = ("configure", "start", "verify")
LIMIT = 900

what, maker, image, memory, gib, count = sys.argv[1:]


def wait_until(is_so):
    """The time at which something is so. Looks often enough, and not so often that it slows that down."""
    end = time.time() + LIMIT
    while not is_so():
        if time.time() > end:
            sys.exit(f"{sys.argv[1:]}: not within {LIMIT} s")
        time.sleep(0.05)
    return time.time()


def content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def speaks(name):
    return lambda: BANNER in content(f"/var/log/xen/console/guest-{name}.log")


def ask(page, fields):
    """Sends a request to the portal, as a script would. Returns its JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", timeout=300)
    sign_in = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {sign_in}"}
    connection.request("GET", f"/cgi-bin/user/{page}?format=json&{fields}", headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 202:
        sys.exit(f"{page}?{fields}: {answer.status} {text}")
    return json.loads(text)


def record(machine):
    text = content(f"{JOBS}/{machine}.json")
    return json.loads(text) if text else None


class Vgrid:
    """A machine of the portal."""

    def make(self, name):
        self.name = name
        fields = f"vmImage={image}&vmMemory={memory}&vmPartition={gib}&vmHostname={name}"
        self.id = ask("deploy", fields)["machine"]["id"]

    def stage_is(self, stages):
        now = record(self.id)
        if now is None or now.get("failed"):
            sys.exit(f"{self.name}: {now}")
        return now["done"] or now["stage"] in stages

    def ready(self):
        return wait_until(lambda: self.stage_is(PAST_DISKS))

    def started(self):
        return wait_until(lambda: self.stage_is(("verify",)))

    def spoke(self):
        return wait_until(speaks(f"alice_{self.name}"))

    def end(self):
        """Returns when it was told to go, and when it was gone."""
        wait_until(lambda: record(self.id)["done"])
        time.sleep(5)
        began = time.time()
        ask("terminate", f"id={self.id}")
        return began, wait_until(lambda: record(self.id) is None)


class Script:
    """A machine of the script."""

    def run(self, *words):
        command = ["/root/bench/reference.sh", *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return {word: float(at) for word, at in (line.split() for line in done.stdout.splitlines())}

    def make(self, name):
        self.name = f"script-{name}"
        address = f"10.0.2.{20 + int(name[2:])}"
        file = glob.glob(f"/var/lib/vgrid/images/{image}.tar.gz")[0]
        self.marks = self.run("make", self.name, address, file, memory, gib)

    def ready(self):
        return self.marks["ready"]

    def started(self):
        return self.marks["started"]

    def spoke(self):
        return wait_until(speaks(self.name))

    def end(self):
        time.sleep(5)
        began = time.time()
        return began, self.run("end", self.name)["gone"]


new = {"vgrid": Vgrid, "script": Script}[maker]


def one():
    machine = new()
    began = time.time()
    machine.make("vm8")
    times = [machine.ready(), machine.started(), machine.spoke()]
    told, gone = machine.end()
    print(*(f"{at - began:.2f}" for at in times), f"{gone - told:.2f}")


def many():
    machines = [new() for _ in range(int(count))]
    began = time.time()
    with ThreadPoolExecutor(len(machines) if maker == "vgrid" else 1) as orders:
        list(orders.map(lambda n: machines[n].make(f"vm{n + 1}"), range(len(machines))))
    last = max(machine.started() for machine in machines)
    print(f"{last - began:.2f}")
    for machine in machines:
        machine.spoke()
        machine.end()


one() if what == "one" else many()
