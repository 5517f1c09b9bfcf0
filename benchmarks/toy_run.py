"""What the benchmarks of whole runs share: runs on the toy, their curves, a model's accuracy."""

import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext import run_log
from verl_ext.plotting.panels import COLOURS, end_labels, step_axis
from verl_ext.run_log import RunLog
from verl_ext.toy import answers, world

EVERY = 4  # steps from one validation to the next
SAMPLES = 4  # of each prompt in validation


def run(folder: Path, steps: int, overrides: Sequence[str], paper: str = "opd") -> RunLog:
    """A run's log, from disk if it is whole there; its whole output is in ``folder``/out.log."""
    metrics = folder / "run" / "metrics.jsonl"
    if not metrics.exists() or run_log.read(metrics).last_step < steps:
        validation = [
            f"actor_rollout_ref.rollout.val_kwargs.n={SAMPLES}",
            f"trainer.total_training_steps={steps}",
            f"trainer.test_freq={EVERY}",
        ]
        launch(folder, paper, [*validation, *overrides])
    return run_log.read(metrics)


def launch(folder: Path, paper: str, overrides: Sequence[str]) -> None:
    """A run of an overlay at CPU scale, with its whole output in ``folder``/out.log."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", f"+paper={paper}", "+scale=cpu"),
        f"hydra.run.dir={folder}/run",
        *overrides,
    ]
    print(f"{folder.name} ...", flush=True)
    with open(folder / "out.log", "w") as file:
        subprocess.run(command, cwd=folder, stdout=file, stderr=file, check=True)


def ended(log: RunLog, source: str) -> float:
    """pass@1 at the end of a run: the mean of its last two validations."""
    return statistics.mean(log.pass_at_k(source)[1].values[-2:])


def draw_methods(axes: Any, found: Mapping[str, Sequence[RunLog]], source: str) -> None:
    """pass@1 over the steps: each method's median over its runs, with all of them thin behind."""
    marks = []
    for colour, (label, logs) in zip(COLOURS, found.items(), strict=False):
        curves = [log.pass_at_k(source)[1] for log in logs]
        for curve in curves:
            axes.plot(curve.steps, curve.values, color=colour, linewidth=0.7, alpha=0.4)
        middle = [statistics.median(at) for at in zip(*(c.values for c in curves), strict=True)]
        axes.plot(curves[0].steps, middle, color=colour)
        marks.append((middle[-1], f"{label}  {middle[-1]:.2f}", colour))
    step_axis(axes, next(iter(found.values()))[0].last_step)
    end_labels(axes, marks)


def prompts(variant: str, source: str) -> pa.Table:
    """A toy world's validation rows of a data source."""
    return pq.read_table(world.ensure(variant).val, filters=[("data_source", "=", source)])


def accuracy(model: Path, variant: str, source: str) -> float:
    """pass@1 of a model on these rows, sampled without verl."""
    rows = prompts(variant, source).to_pylist()
    found = answers.sample_answers(model, [row["prompt"] for row in rows], 4 * SAMPLES)
    right = [
        answer.text == row["reward_model"]["ground_truth"]
        for row, of_row in zip(rows, found, strict=True)
        for answer in of_row
    ]
    return sum(right) / len(right)
