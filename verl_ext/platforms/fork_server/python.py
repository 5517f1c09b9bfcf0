"""A Python that is ready at once: asks the fork server of its run for a process, and stands for it.

Started by the ``python`` that :mod:`verl_ext.platforms.fork_server` writes, with the server's
socket, the interpreter to fall back on, and the arguments of a Python. It hands over its open
files, environment and directory, passes signals on and ends as the forked process ends. Where no
server answers, or with interpreter options that a fork cannot honour, it becomes the interpreter.

Runs without site-packages: the standard library alone.
"""

import array
import contextlib
import itertools
import json
import os
import signal
import socket
import struct
import sys

HONOURED = {"-u", "-B"}  # a fork writes unbuffered, and compiles next to nothing, in any case
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(path: str, interpreter: str, *arguments: str) -> None:
    """Runs ``interpreter arguments`` as a fork of the server at ``path``."""
    options = list(itertools.takewhile(HONOURED.__contains__, arguments))
    wanted = arguments[len(options) :]
    if not wanted or (wanted[0].startswith("-") and wanted[0] != "-c"):
        os.execv(interpreter, [interpreter, *arguments])
    files = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)]
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect(path)
        _ask(server, wanted, files)
    except (FileNotFoundError, ConnectionError) as error:
        print(f"[verl_ext] no fork server ({error}): a new Python", file=sys.stderr, flush=True)
        os.execv(interpreter, [interpreter, *arguments])
    for fd in files:
        if fd > 2:
            os.close(fd)
    _stand_for(server, path)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:  # the descriptor that listed them
        return False
    return True


def _ask(server: socket.socket, wanted: tuple[str, ...], files: list[int]) -> None:
    request = {
        "argv": wanted,
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "files": files,
        "group": os.getpgrp(),
        "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    }
    text = json.dumps(request).encode("utf-8", "surrogateescape")
    rights = array.array("i", files)
    server.sendmsg([struct.pack("!I", len(text))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    server.sendall(text)


def _stand_for(server: socket.socket, path: str) -> None:
    answers = server.makefile("r")
    first = answers.readline()
    if not first:
        log = os.path.join(os.path.dirname(path), "log")
        sys.exit(f"[verl_ext] the fork server ended before it could start a process; see {log}")
    pid = int(first)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: _kill(pid, number))
    status = answers.readline()
    if not status:  # the server was killed, and nobody watches the fork any more
        _kill(pid, signal.SIGKILL)
        os._exit(1)
    code = int(status)
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


if __name__ == "__main__":
    main(*sys.argv[1:])
