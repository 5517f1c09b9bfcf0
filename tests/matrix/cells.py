"""The capability matrix: which cells there are, what each is composed of, what has run.

A cell is a method on an engine under a trainer mode, with sessions of one output or, under the
synchronous trainer, of two. ``docs/capability.json`` records those that
ran: when, at which commit, with which configuration. A cell whose configuration has changed since
is stale.
"""

import fcntl
import hashlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from omegaconf import OmegaConf

from verl_ext.papers import PAPERS

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs" / "capability.json"
RECORDING = bool(os.environ.get("VERL_EXT_RECORD"))  # whether what has run is written there
ENGINES = {"dp": "FSDP2", "megatron": "Megatron"}
MODES = ("sync", "colocate_async", "separate_async")
# Overlays with a variant for the CPU, by what their line has beside the scale.
METHODS = {
    name: [word for word in paper.line.split()[3:] if word != "+scale=cpu"]
    for name, paper in PAPERS.items()
    if "+scale=cpu" in paper.line
}


@dataclass(frozen=True)
class Cell:
    """A method on an engine under a trainer mode, with sessions of so many outputs."""

    method: str
    engine: str
    mode: str
    outputs: int = 1  # of a session

    def __str__(self) -> str:
        two = "-two_outputs" if self.outputs == 2 else ""
        return f"{self.method}-{self.engine}-{self.mode}{two}"

    @property
    def repeats(self) -> bool:
        """Whether a run is equal to the bit to one that was stopped."""
        return self.mode == "sync"

    @property
    def overrides(self) -> list[str]:
        """What to type."""
        choice = [f"model_engine={self.engine}", f"trainer.v1.trainer_mode=verl_ext.{self.mode}"]
        chance = [] if self.repeats else ["algorithm.verl_ext.deterministic=false"]
        agent = "actor_rollout_ref.rollout.agent.default_agent_loop=two_outputs"
        loop = [agent] if self.outputs == 2 else []
        return [*METHODS[self.method], "+scale=cpu", *choice, *chance, *loop]


CELLS = [Cell(*axes) for axes in itertools.product(METHODS, ENGINES, MODES)] + [
    Cell(*axes, "sync", outputs=2) for axes in itertools.product(METHODS, ENGINES)
]

# What `make test` runs of them: every pair of values of any two axes, a method standing for those
# that are the same code under other settings, or a part of it.
FAMILIES = {
    "w_reinforce": ("psr", "nsr"),
    "sdpo": ("sdpo_rich_feedback",),
    "qwenlong_l15": ("task_norm", "task_balanced", "aepo"),
    "rlpr": ("std_filter",),
}
RESUMED = (  # trained and resumed
    Cell("w_reinforce", "megatron", "sync", outputs=2),
    Cell("opd", "dp", "sync", outputs=2),
    Cell("sdpo_test_time", "dp", "sync"),
    Cell("qwenlong_l15", "dp", "colocate_async"),
    Cell("nsr", "megatron", "colocate_async"),
    Cell("qwenlong_l15", "megatron", "separate_async"),
)
TRAINED = (
    Cell("opd", "dp", "colocate_async"),
    Cell("opd", "megatron", "separate_async"),
    Cell("sdpo", "megatron", "colocate_async"),
    Cell("sdpo_rich_feedback", "dp", "separate_async"),
    Cell("sdpo_test_time", "megatron", "sync"),
    Cell("qwenlong_l15", "dp", "sync", outputs=2),
    Cell("arena_rl", "megatron", "colocate_async"),
    Cell("arena_rl", "dp", "separate_async"),
    Cell("arena_rl", "dp", "sync", outputs=2),
    Cell("rlpr", "dp", "colocate_async"),
    Cell("rlpr", "megatron", "separate_async"),
    Cell("rlpr", "megatron", "sync", outputs=2),
)
ELSEWHERE = {  # the whole run that has it -> whether it is resumed there
    Cell("w_reinforce", "dp", "separate_async"): False,  # runs/test_async_runs.py
    Cell("sdpo", "dp", "sync"): True,  # runs/test_self_teaching_runs.py
    Cell("arena_rl", "dp", "sync"): True,  # runs/test_arena_rl_runs.py
    Cell("rlpr", "dp", "sync"): True,  # runs/test_rlpr_runs.py
}


def pairs(cell: Cell, resumed: bool) -> set[tuple[object, ...]]:
    """Every two values of a cell, run or run and resumed."""
    family = next((name for name, same in FAMILIES.items() if cell.method in same), cell.method)
    values = (family, cell.engine, cell.mode, cell.outputs, resumed)
    return set(itertools.combinations(enumerate(values), 2))


def fingerprint(config) -> str:
    """Of a composed configuration, before anything of this machine is resolved into it."""
    text = OmegaConf.to_yaml(config, resolve=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recorded() -> dict[str, dict[str, str]]:
    """What has run, by the cell's name."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def refusals(by: str) -> dict[str, str]:
    """Cells that are refused, with the words: by the ``driver``, or by a ``run``."""
    entries = recorded().items()
    return {name: e["refused"] for name, e in entries if "refused" in e and e["by"] == by}


@contextmanager
def lock() -> Iterator[None]:
    """Held by the one of two lanes of tests that writes the record."""
    folder = os.open(RECORD.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def record(cell: Cell, config, **what: str) -> None:
    """Writes down what came of a cell, here and now."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    date = datetime.now(timezone.utc).date().isoformat()
    entry = {"commit": commit, "date": date, "config": fingerprint(config), **what}
    with lock():
        all_cells = recorded() | {str(cell): entry}
        text = json.dumps(dict(sorted(all_cells.items())), indent=1) + "\n"
        written = RECORD.with_suffix(".new")
        written.write_text(text)
        written.replace(RECORD)  # the other lane may be reading it
