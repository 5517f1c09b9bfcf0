"""Runs tests in forks of one process that has imported what they need.

Starting pytest and importing torch takes seconds, a mutant's tests a fraction of one. So the parent
imports torch, pytest, hypothesis and the like once, and nothing of ours. A fork of it imports the
package from the staged copy, collects the tests, and forks again for every mutant (session.py). A
mutant of what happens when a module is imported has a fork of the parent to itself.
"""

import contextlib
import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PRELOADED = (
    *("torch", "numpy", "pytest", "hypothesis", "jaxtyping", "pyarrow.parquet"),
    *("xdist.plugin", "_hypothesis_pytestplugin", "hypothesis.strategies"),
)
PLUGINS = ("xdist.plugin", "_hypothesis_pytestplugin")  # all that our tests use
OFF = ("cacheprovider", "unraisableexception", "threadexception")
EXAMPLES = 12  # of a property, at most
BROKEN = 99  # of a fork: the tool's own failure


def preload(folder: Path, names: Sequence[str] = PRELOADED) -> None:
    """Imports what the forks share, and lets them find the staged copy first."""
    here = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ |= {**here, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    for name in names:
        importlib.import_module(name)
    if "torch" in names:
        sys.modules["torch"].set_num_threads(1)
    import hypothesis

    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # a failure suffices
    hypothesis.settings.register_profile(
        "mutation",
        max_examples=EXAMPLES,
        phases=phases,
        derandomize=True,
        deadline=None,
        report_multiple_bugs=False,
    )
    hypothesis.settings.load_profile("mutation")
    gc.collect()
    gc.freeze()


def pytest_in_fork(root: Path, test: str, plugin: Any, log: Path, limit: float) -> int | None:
    """Exit code of pytest in a fork, None when it took too long."""

    def work() -> int:
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.chdir(root)
        import pytest

        loaded = [part for name in PLUGINS for part in ("-p", name)]
        off = [part for name in OFF for part in ("-p", f"no:{name}")]
        return int(pytest.main(["-x", "-q", *loaded, *off, test], plugins=[plugin]))

    return forked(work, limit)


def forked(work: Callable[[], int], limit: float) -> int | None:
    """What a function returns in a fork, as an exit code; None when it took too long."""
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            os.setsid()
            code = work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        return _wait(child, limit)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what a test started too


def _wait(child: int, limit: float) -> int | None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


@contextlib.contextmanager
def written(file: Path, source: str) -> Iterator[None]:
    """A mutant in the place of a file."""
    before = file.read_text(encoding="utf-8")
    file.write_text(source, encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(before, encoding="utf-8")
