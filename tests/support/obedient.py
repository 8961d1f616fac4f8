"""A small program for launchd to run: notes each start, and ends as told.

`obedient.py RECORD [drain=SECONDS] [until=FILE] [exit=CODE] [deaf] [child]`: appends one JSON line per start to RECORD
(pid, environment, folder, …), with `child` that of a child process; at SIGTERM it waits `drain`, and for FILE to be
there, and exits 0, or does nothing if `deaf`; with `exit` it ends at once with that code.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

record, *words = sys.argv[1:]
options = dict(word.partition("=")[::2] for word in words)
start = {
    "pid": os.getpid(),
    "env": dict(os.environ),
    "folder": str(Path.cwd()),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    "group": os.getpgrp(),
}
if "child" in options:
    start["child"] = subprocess.Popen(["/bin/sleep", "600"]).pid


def end(*_):
    if "deaf" not in options:
        time.sleep(float(options.get("drain", "0")))
        while "until" in options and not Path(options["until"]).exists():
            time.sleep(0.02)
        sys.exit(0)


signal.signal(signal.SIGTERM, end)
sys.stdout.write("hello\n")
sys.stdout.flush()
with Path(record).open("a") as file:
    file.write(json.dumps(start) + "\n")
if "exit" in options:
    sys.exit(int(options["exit"]))
while True:
    signal.pause()
