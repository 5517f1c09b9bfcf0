"""A simulated judge in a process of its own, which ends with the process that started it.

The child waits for the end of its standard input, a pipe that the parent holds: it comes when the
parent stops the judge, and also when the parent is killed.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from types import TracebackType
from typing import Any

from verl_ext.simulated_judge.settings import ServerSettings

PATIENCE_S = 10.0  # for the child to end


class RunningJudge:
    """A judge in a child process; also a context manager, which stops it.

    Attributes:
        url: base URL for a client.
    """

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self._process = process
        self.url = url

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def stats(self) -> dict[str, Any]:
        """What it did so far."""
        with urllib.request.urlopen(urllib.parse.urljoin(self.url, "/stats")) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def stop(self) -> None:
        """Ends the child, at once where it does not end by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "RunningJudge":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(settings: ServerSettings) -> RunningJudge:
    """Starts a judge and waits until it listens.

    Args:
        settings: of the judge. The child finds the quality's module where this process would.

    Raises:
        RuntimeError: it does not start; why stands on stderr.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "verl_ext.simulated_judge.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(settings.dumps() + "\n")
    process.stdin.flush()
    url = process.stdout.readline().strip()
    if not url:
        process.stdin.close()
        raise RuntimeError(f"the simulated judge did not start: exit status {process.wait()}")
    return RunningJudge(process, url)


async def _serve(settings: ServerSettings) -> None:
    from verl_ext.simulated_judge.server import SimulatedJudge, listening

    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait_for_parent() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    loop.add_signal_handler(signal.SIGTERM, ended.set)
    # Ctrl-C goes to the parent too, which decides when the judge is no longer wanted.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    async with listening(SimulatedJudge(settings), settings) as url:
        threading.Thread(target=wait_for_parent, daemon=True).start()
        print(url, flush=True)
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(ServerSettings.loads(sys.stdin.readline())))
