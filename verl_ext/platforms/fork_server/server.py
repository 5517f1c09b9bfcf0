"""The process that forks: imports, then answers requests. See the package."""

import contextlib
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing import spawn
from pathlib import Path
from typing import Any

from verl_ext.platforms.fork_server import FIRST_VARIABLE, fork

RESERVED = 256  # descriptors kept free for those of a fork: libraries open theirs above
Request = dict[str, Any]


class Server:
    """Forks processes on request, and tells how they ended.

    Args:
        folder: of its socket and of the program that asks.
        listening: the socket.
    """

    def __init__(self, folder: Path, listening: socket.socket) -> None:
        self._folder = folder
        self._reserved = [os.open(os.devnull, os.O_RDONLY) for _ in range(RESERVED)]
        self._began = dict(os.environ)
        self._listening = listening
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._listening, selectors.EVENT_READ, self._accept)
        self._ready.register(0, selectors.EVENT_READ, self._end)
        self._asked: list[tuple[Request, list[int], socket.socket]] = []
        self._forks: dict[int, tuple[int, socket.socket]] = {}  # pid -> its descriptor, who asked

    def serve(self, first: Sequence[str], then: Sequence[str], later: Sequence[str]) -> list[str]:
        """Imports the modules and answers requests, until the process that started it ends.

        Args:
            first: modules to import at once.
            then: modules to import at the first request, before it is answered: Ray reads once,
                on import, what its workers are told of their cluster.
            later: modules to import between the next requests.

        Returns:
            In each forked process, and there alone: the arguments of the Python that it is to be.
        """
        for name in first:
            self._import(name)
        while not self._asked:
            self._listen(timeout=None)
        told = self._asked[0][0]["environment"]
        os.environ.update({k: v for k, v in told.items() if k.startswith("RAY_")})
        for name in then:
            self._import(name)
        for name in later:
            argv = self._answer(timeout=0)
            if argv is not None:
                return argv
            self._import(name)
        gc.collect()
        gc.freeze()  # collections in a fork leave the shared pages alone
        print(f"ready, {len(os.listdir('/proc/self/task'))} threads")
        while (argv := self._answer(timeout=None)) is None:
            pass
        return argv

    def _import(self, name: str) -> None:
        began = time.perf_counter()
        try:
            importlib.import_module(name)
        except ImportError:  # of an optional package: whoever needs it will say so
            traceback.print_exc()
        print(f"{time.perf_counter() - began:.2f} s {name}")

    def _answer(self, timeout: float | None) -> list[str] | None:
        """Forks for all who have asked; the arguments of a fork, in the fork."""
        self._listen(0 if self._asked else timeout)
        while self._asked:
            argv = self._fork(*self._asked.pop(0))
            if argv is not None:
                return argv
        return None

    def _listen(self, timeout: float | None) -> None:
        for key, _ in self._ready.select(timeout):
            key.data()

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        try:
            self._asked.append((*_received(client), client))
        except ConnectionError:  # it was killed
            client.close()

    def _fork(self, request: Request, files: list[int], client: socket.socket) -> list[str] | None:
        pid = os.fork()
        if pid == 0:
            for _, others, other in self._asked:
                other.close()
                for fd in others:
                    os.close(fd)
            client.close()
            self._become(request, files)
            return list(request["argv"])
        for fd in files:
            os.close(fd)
        ended = os.pidfd_open(pid)
        self._forks[pid] = ended, client
        self._ready.register(ended, selectors.EVENT_READ, lambda: self._tell(pid))
        self._ready.register(client, selectors.EVENT_READ, lambda: self._kill(pid))
        _send(client, pid)
        return None

    def _tell(self, pid: int) -> None:
        ended, client = self._forks.pop(pid)
        _, status = os.waitpid(pid, 0)
        self._ready.unregister(ended)
        os.close(ended)
        if client in self._ready.get_map():
            self._ready.unregister(client)
            _send(client, os.waitstatus_to_exitcode(status))
        client.close()

    def _kill(self, pid: int) -> None:
        """Who stood for it was killed: so is it."""
        if pid in self._forks:
            self._ready.unregister(self._forks[pid][1])
            os.kill(pid, signal.SIGKILL)

    def _end(self) -> None:
        for pid in self._forks:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)
        raise SystemExit

    def _become(self, request: Request, files: list[int]) -> None:
        """Makes this fork a process like the one that stands for it."""
        self._listening.close()
        self._ready.close()
        for ended, client in self._forks.values():
            os.close(ended)
            client.close()
        for fd in self._reserved:
            os.close(fd)
        fork.place(files, request["files"])
        self._set_environment(request["environment"])
        os.chdir(request["directory"])
        try:
            os.setpgid(0, request["group"])
        except PermissionError:  # a group of another session
            os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
        spawn.set_executable(str(self._folder / "python"))
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()  # the random module does so itself
        if "ray._raylet" in sys.modules:
            self._join_ray()

    def _set_environment(self, wanted: dict[str, str]) -> None:
        """The wanted one, and what modules have added on import; the first stays where it is."""
        added = {
            k: v for k, v in os.environ.items() if self._began.get(k) != v or k == FIRST_VARIABLE
        }
        wanted = {**added, **wanted}
        for name in os.environ.keys() - wanted.keys():
            del os.environ[name]
        for name, value in wanted.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    def _join_ray(self) -> None:
        """Reads ``RAY_*`` anew, and makes sure that no other fork draws this one's IDs."""
        ray = sys.modules["ray._raylet"]
        ray.Config.initialize("")
        drawn = self._folder / f"drawn-{ray.UniqueID.from_random().hex()}"
        try:
            drawn.touch(exist_ok=False)
        except FileExistsError as error:
            raise RuntimeError(
                "[verl_ext] two forked processes draw the same IDs of Ray: add "
                "algorithm.verl_ext.preload=false, and tell us which modules you load"
            ) from error


def _send(client: socket.socket, number: int) -> None:
    with contextlib.suppress(ConnectionError):  # who asked was killed: it will be noticed
        client.sendall(f"{number}\n".encode())


def _received(client: socket.socket) -> tuple[Request, list[int]]:
    head, files, _, _ = socket.recv_fds(client, 4, 253)
    stream = client.makefile("rb", buffering=0)
    size = struct.unpack("!I", head)[0] if len(head) == 4 else 0
    text = b""
    while len(text) < size:
        part = stream.read(size - len(text))
        if not part:
            break
        text += part
    if not size or len(text) < size:
        for fd in files:
            os.close(fd)
        raise ConnectionError("half a request")
    return json.loads(text.decode("utf-8", "surrogateescape")), files


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    where, listening, *lists = sys.argv[1:]
    server = Server(Path(where), socket.socket(fileno=int(listening)))
    fork.run(server.serve(*(list(filter(None, names.split(","))) for names in lists)))
