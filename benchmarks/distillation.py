"""Steps to an accuracy: on-policy distillation beside GRPO, on the toy world, on the CPU.

    python benchmarks/distillation.py OUT [--rates 1e-4 3e-4 1e-3] [--seeds 1 2 3]
        [--methods opd grpo] [--steps 60] [--accuracy 0.6]

Each method gets every learning rate with every seed; the rate with the fewest steps to the
accuracy, as the median over the seeds, is its best. A run that does not get there counts as one
that takes longer than it lasted. The accuracy is validation's pass@1 at temperature 1; the
teacher's own is measured on the same prompts with as many samples.

Runs that OUT already has are not repeated: the comparison can be made in several sittings. At the
end a table, and OUT/distillation.png: the median over the seeds of each method's best rate, with
all seeds thin behind it.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from verl_ext import run_log
from verl_ext.plotting.panels import (
    COLOURS,
    DPI,
    GREY,
    STYLE,
    end_labels,
    grid,
    headline,
    step_axis,
)
from verl_ext.run_log import RunLog, Series
from verl_ext.text_table import aligned

MIX = "algorithm.verl_ext.advantage"
METHODS = {  # all on the student that `+paper=opd` trains, with its sizes
    "opd": [],
    "grpo": [f"{MIX}.task_estimator=grpo", f"{MIX}.coef=0.0"],
    "opd+grpo": [f"{MIX}.task_estimator=grpo"],
    "divergence": [f"{MIX}.coef=0.0", "+algorithm.verl_ext.divergence={top_k: 20}"],
}
SOURCE = "toy"
SAMPLES = 8  # of each prompt in validation, by `+scale=cpu`
PASS = f"verl_ext/val/{SOURCE}/pass@1"


def folder_of(out: Path, method: str, rate: str, seed: int) -> Path:
    """Where a run lies."""
    return out / f"{method}_{rate}_{seed}"


def run(folder: Path, method: str, rate: str, seed: int, steps: int) -> RunLog:
    """A run's log, from disk if it is whole there."""
    metrics = folder / "run" / "metrics.jsonl"
    if not metrics.exists() or run_log.read(metrics).last_step < steps:
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "verl.trainer.main_ppo", "+paper=opd", "+scale=cpu"),
            f"actor_rollout_ref.actor.optim.lr={rate}",
            f"data.seed={seed}",
            f"trainer.total_training_steps={steps}",
            "trainer.test_freq=5",
            f"hydra.run.dir={folder}/run",
            *METHODS[method],
        ]
        print(f"{folder.name} ...", flush=True)
        with open(folder / "out.log", "w") as file:
            subprocess.run(command, cwd=folder, stdout=file, stderr=file, check=True)
    return run_log.read(metrics)


def steps_to(series: Series, accuracy: float) -> float:
    """The first validation at which a run has it; infinite if none."""
    pairs = zip(series.steps, series.values, strict=True)
    return next((float(step) for step, value in pairs if value >= accuracy), float("inf"))


def teacher_accuracy() -> float:
    """The teacher's pass@1 on the prompts of validation."""
    import pyarrow.parquet as pq

    from verl_ext.toy import answers, world

    toy = world.ensure("opd")
    rows = pq.read_table(toy.val, filters=[("data_source", "=", SOURCE)]).to_pylist()
    found = answers.sample_answers(toy.part("teacher"), [row["prompt"] for row in rows], SAMPLES)
    right = [
        answer.text == row["reward_model"]["ground_truth"]
        for row, of_row in zip(rows, found, strict=True)
        for answer in of_row
    ]
    return statistics.mean(right)


@matplotlib.rc_context(STYLE)
def draw(best: dict[str, list[Series]], teacher: float, accuracy: float, path: Path) -> None:
    """The picture of the module's text."""
    figure, (axes,) = grid(1, width=7.5)
    marks = []
    for colour, (label, runs) in zip(COLOURS, best.items(), strict=False):
        for series in runs:
            axes.plot(series.steps, series.values, color=colour, linewidth=0.7, alpha=0.4)
        steps = runs[0].steps
        middle = [statistics.median(series.values[i] for series in runs) for i in range(len(steps))]
        axes.plot(steps, middle, color=colour)
        marks.append((middle[-1], f"{label}  {middle[-1]:.2f}", colour))
    for level, what in ((teacher, "teacher"), (accuracy, "the accuracy")):
        axes.axhline(level, color=GREY, linestyle="--", linewidth=1)
        marks.append((level, f"{what}  {level:.2f}", GREY))
    axes.set_ylim(0, 1)
    axes.set_ylabel("pass@1")
    axes.set_title(f"validation: {SOURCE}")
    step_axis(axes, max(series.steps[-1] for runs in best.values() for series in runs))
    end_labels(axes, marks)
    headline(figure, "Teacher or reward", f"median of {len(next(iter(best.values())))} seeds")
    figure.savefig(path, format="png", dpi=DPI)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rates", nargs="+", default=["1e-4", "3e-4", "1e-3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["opd", "grpo"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--accuracy", type=float, default=0.6)
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    found: dict[str, dict[str, list[Series]]] = {method: {} for method in args.methods}
    for seed in args.seeds:
        for method in args.methods:
            for rate in args.rates:
                place = folder_of(out, method, rate, seed)
                log = run(place, method, rate, seed, args.steps)
                found[method].setdefault(rate, []).append(log.series[PASS])
    rows = [("method", "rate", f"steps to {args.accuracy}", "of each seed", "pass@1 at the end")]
    best, least = {}, {}
    for method, rates in found.items():
        middle = {}
        for rate, runs in rates.items():
            each = [steps_to(series, args.accuracy) for series in runs]
            middle[rate] = statistics.median(each)
            ends = statistics.median(series.values[-1] for series in runs)
            rows.append((method, rate, f"{middle[rate]:g}", str(each), f"{ends:.3f}"))
        rate = min(middle, key=middle.__getitem__)
        best[f"{method}, {rate}"], least[method] = rates[rate], middle[rate]
    print("\n".join(aligned(rows, 2)))
    teacher = teacher_accuracy()
    print(f"teacher: {teacher:.3f}; 80 % of it: {0.8 * teacher:.3f}")
    if {"opd", "grpo"} <= set(least):
        print(f"opd / grpo, steps to {args.accuracy}: {least['opd'] / least['grpo']:.2f}")
    draw(best, teacher, args.accuracy, out / "distillation.png")
    print(f"picture: {out}/distillation.png")


if __name__ == "__main__":
    main()
