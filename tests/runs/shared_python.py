"""One fork server for many runs: driver and workers would all import the same, in each of them.

A run's own server cannot serve another: Ray reads once, on import, what its workers are told of
their cluster. Here it is told what holds for every run: that the job is the first of its cluster,
and to live as long as this process does.
"""

import os
import subprocess
import sys

STARTED = {}  # PYTHONPATH -> the process that started the server, its program


def program():
    """The program to use for ``python``; its server ends with this process."""
    path = os.environ.get("PYTHONPATH")  # all else a fork is given
    if path not in STARTED:
        while STARTED:
            _, (process, _) = STARTED.popitem()
            process.communicate()
        process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        printed = process.stdout.readline().strip()
        assert printed, f"no shared fork server: exit code {process.wait()}"
        STARTED[path] = process, printed
    return STARTED[path][1]


def main():
    from hydra import compose, initialize_config_module

    from verl_ext.adapters import preloading
    from verl_ext.platforms import fork_server

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+paper=w_reinforce", "+scale=cpu"])
    modules = preloading.FIRST + preloading.THEN + preloading.LATER
    cluster = {"RAY_JOB_ID": "01000000", "RAY_RAYLET_PID": str(os.getpid())}
    environment = {**preloading.environment(config), **cluster}
    print(fork_server.start(modules, [], [], environment), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
