"""strike_lib.py - put in front of the scripts that strike a host in the middle of its work."""

import errno
import glob
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

WORKER = "/usr/lib/vgrid/vgrid-worker"
HELPER = "/usr/lib/vgrid/vgrid-helper"


def program(pid):
    """The executable of a process, and its arguments."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as text:
            return os.readlink(f"/proc/{pid}/exe"), text.read().split("\0")
    except OSError:
        return "", []


def fill(file):
    """Uses up a file system, including the blocks reserved for root."""
    with open(file, "wb") as filler:
        for size in (1 << 30, 1 << 26, 1 << 22, 1 << 18, 1 << 12):
            while True:
                try:
                    os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break


