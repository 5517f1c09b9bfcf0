"""Processes that start with everything imported: forks of one that has done it.

A run on the CPU starts a dozen Python processes one after the other, Ray's and vLLM's, and each
imports torch, verl and vLLM for ten seconds or more. Here one process imports them while the driver
still reads its configuration, and the others are forked from it. Ray's seam is ``py_executable``,
that of multiprocessing ``set_executable``; both are given a small program, ``python.py``, that asks
the server, ``server.py``.

A fork differs from a new Python in nothing that counts: the server starts with the environment of
the workers, so that what modules read of it on import is the same; when it forks it has one thread,
beside those of Arrow's allocator and of OpenBLAS, which mind forks themselves; each fork has the
files, environment, directory, process group and blocked signals of whom it stands for, and random
numbers of its own.
"""

import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# A process finds the memory of its title from the first variable of the environment it began with.
FIRST_VARIABLE = "VERL_EXT_FORK_SERVER"
HERE = Path(__file__).parent
_RUNNING: list["subprocess.Popen[bytes]"] = []


def start(
    first: Sequence[str],
    then: Sequence[str],
    later: Sequence[str],
    environment: Mapping[str, str],
) -> Path:
    """Starts a server that lives as long as this process.

    Args:
        first: modules to import at once, in this order; none may import Ray.
        then: modules to import when the first process is asked for, before it is forked.
        later: modules to import after that, between forks.
        environment: of the server, and so what its modules read on import.

    Returns:
        The program to use for ``python``.
    """
    folder = Path(tempfile.mkdtemp(prefix="verl_ext-python-"))  # open to this user alone
    python = folder / "python"
    words = [sys.executable, "-SE", str(HERE / "python.py"), str(folder / "socket"), sys.executable]
    python.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    python.chmod(0o700)
    with _listening(folder / "socket") as listening, open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"{__name__}.server", str(folder), str(listening.fileno())),
                *(",".join(first), ",".join(then), ",".join(later)),
            ],
            env={FIRST_VARIABLE: "1", **environment},
            pass_fds=[listening.fileno()],
            stdin=subprocess.PIPE,  # closes when we end, however we do
            stdout=log,
            stderr=log,
        )
    _RUNNING.append(process)
    return python


def _listening(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(64)
    return listening
