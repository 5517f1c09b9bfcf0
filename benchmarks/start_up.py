"""Where the time before the first training step goes, process by process.

    python benchmarks/start_up.py [OVERRIDE ...]     # +paper=w_reinforce by default

Starts a run of one step at CPU scale, from the command line as a user does, reads ``/proc`` four
times a second and tells of every process of the run when it began and how many seconds of CPU it
had used when the first step began. Then the same with new Pythons for all processes
(``algorithm.verl_ext.preload=false``), and the two ratios: acceptance at most 0.5.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bars import Bar, verdict

MARK = "VERL_EXT_START_UP"
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Process:
    """A process of the run.

    Attributes:
        name: its title, or program and first arguments.
        began: seconds after the run's start.
        cpu: seconds of CPU so far, its own alone.
    """

    name: str
    began: float
    cpu: float


@dataclass
class StartUp:
    """A run's way to its first step.

    Attributes:
        seconds: from the command to the first step's beginning.
        processes: those that had begun by then.
    """

    seconds: float
    processes: list[Process]

    @property
    def cpu(self) -> float:
        """Seconds of CPU, of all of them."""
        return sum(process.cpu for process in self.processes)


def measure(overrides: Sequence[str]) -> StartUp:
    """Starts a run and watches it until it has made a step and ended."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [
            *(sys.executable, "-m", "verl.trainer.main_ppo", *overrides, "+scale=cpu"),
            *("trainer.total_training_steps=1", "trainer.val_before_train=False"),
            *("trainer.test_freq=-1", f"hydra.run.dir={folder}/run"),
        ]
        samples: list[tuple[float, dict[int, Process]]] = []
        with open(Path(folder) / "out.log", "w") as log:
            start = time.time()
            run = subprocess.Popen(
                command,
                cwd=folder,
                stdout=log,
                stderr=log,
                env={**os.environ, MARK: mark},
            )
            while run.poll() is None and not _steps(metrics):
                samples.append((time.time() - start, _processes(mark, start)))
                time.sleep(0.25)
            ended = time.time() - start
            run.wait()
        if run.returncode:
            raise RuntimeError((Path(folder) / "out.log").read_text()[-4000:])
        began = ended - _steps(metrics)[0]["timing_s/step"]
    seen: dict[int, Process] = {}
    for at, processes in samples:
        if at <= began:
            seen |= processes
    return StartUp(began, sorted(seen.values(), key=lambda process: process.began))


def _steps(metrics: Path) -> list[dict[str, float]]:
    if not metrics.exists():
        return []
    lines = metrics.read_text().splitlines(keepends=True)
    found = [json.loads(line)["data"] for line in lines if line.endswith("\n")]
    return [data for data in found if "timing_s/step" in data]


def _processes(mark: str, start: float) -> dict[int, Process]:
    """Those that have the mark in their environment, and their children, which may have lost it."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    found: dict[int, Process] = {}
    for pid in sorted(int(folder.name) for folder in Path("/proc").glob("[0-9]*")):
        folder = Path("/proc") / str(pid)
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if not marked and int(fields[1]) not in found:
                continue
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has just ended
        cpu = (int(fields[11]) + int(fields[12])) / TICK
        began = booted + int(fields[19]) / TICK - start
        found[pid] = Process(_short(title), began, cpu)
    return found


def _short(title: str) -> str:
    words = [word.rpartition("/")[2] for word in title.split()]
    return " ".join(words[:3])[:60]


def bars(overrides: Sequence[str] = ("+paper=w_reinforce",)) -> list[Bar]:
    """Forked processes over new ones: time to the first step, and CPU time."""
    forked, new = (
        measure([*overrides, f"algorithm.verl_ext.preload={on}"]) for on in ("true", "false")
    )
    for found in (forked, new):
        report(found)
    what = "{} before the first step of a CPU run ({:.0f} s), over new processes ({:.0f} s)"
    pairs = [("time", forked.seconds, new.seconds), ("CPU time", forked.cpu, new.cpu)]
    return [
        Bar(what.format(name, *pair), pair[0] / pair[1], 0.5, "benchmarks/start_up.py", False)
        for name, *pair in pairs
    ]


def report(found: StartUp) -> None:
    """Prints the processes in the order they began."""
    print(f"{'began':>7}{'CPU':>8}  process")
    for process in found.processes:
        if process.cpu >= 0.1:
            print(f"{process.began:6.1f}s{process.cpu:7.1f}s  {process.name}")
    print(f"first step after {found.seconds:.1f} s, {found.cpu:.1f} s of CPU\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", default=["+paper=w_reinforce"])
    return verdict(bars(parser.parse_args().overrides))


if __name__ == "__main__":
    raise SystemExit(main())
