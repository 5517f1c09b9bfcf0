"""How the tests of the fork server start one, run its forks and wait for their end."""

import os
import subprocess
import sys
import time

ENVIRONMENT = {**os.environ, "TOLD_AT_START": "1"}
STARTS = """
import os, sys
from verl_ext.platforms import fork_server
print(fork_server.start(["json"], ["numpy"], ["csv"], os.environ), flush=True)
sys.stdin.read()
"""


def with_server(starts=STARTS, **environment):
    """A process that starts a server, prints its program and ends with its input."""
    return subprocess.Popen(
        [sys.executable, "-c", starts],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **environment},
    )


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def run(python, *arguments, **options):
    return subprocess.run(
        [python, *arguments], capture_output=True, text=True, timeout=60, **options
    )


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


def started(python, *before):
    code = "import os, signal, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen([python, "-c", "\n".join([*before, code])], stdout=subprocess.PIPE)
    return process, int(process.stdout.readline())
