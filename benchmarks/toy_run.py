"""What the benchmarks of distillation share: whole runs on the toy, and a model's accuracy."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext import run_log
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
