"""Steps to an accuracy: on-policy distillation beside GRPO, on the toy world, on the CPU.

    python benchmarks/distillation.py OUT [--methods opd grpo] [--seeds 1 2 3]
        [--steps 36] [--accuracy 0.5] [--jobs 1] [--every-seed]

Every method samples 128 responses a step and makes two updates of them: GRPO needs groups, 8
responses to each of 16 prompts; distillation alone needs none, and takes 128 prompts. A method has
three learning rates, around its best: each runs with the first seed; the one with the fewest steps
to the accuracy runs with the others too (``--every-seed``: all do, and the best is that of the
median). Between two validations the accuracy is taken to rise in a straight line. A run that does
not get there counts as one that takes longer than it lasted. The accuracy is validation's pass@1 at
temperature 1; the teacher's own is measured on the same prompts.

Runs that OUT already has are not repeated: the comparison can be made in several sittings. At the
end a table, and OUT/distillation.png: the median over the seeds of each method's best rate, with
all seeds thin behind it.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import matplotlib
import pyarrow.parquet as pq
import toy_run

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
from verl_ext.toy import world

MIX = "algorithm.verl_ext.advantage"
GROUPS = [
    "data.train_batch_size=16",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "actor_rollout_ref.rollout.n=8",
]
ALONE = [
    "data.train_batch_size=128",
    "actor_rollout_ref.actor.ppo_mini_batch_size=64",
    "actor_rollout_ref.rollout.n=1",
]
METHODS = {  # all on the student that `+paper=opd` trains
    "opd": ALONE,
    "grpo": [*GROUPS, f"{MIX}.task_estimator=grpo", f"{MIX}.coef=0.0"],
    "opd+grpo": [*GROUPS, f"{MIX}.task_estimator=grpo"],
    "divergence": [*ALONE, f"{MIX}.coef=0.0", "+algorithm.verl_ext.divergence={top_k: 20}"],
}
RATES = {
    "opd": ["3e-4", "6e-4", "1.2e-3"],
    "grpo": ["3e-4", "6e-4", "1e-3"],
    "opd+grpo": ["3e-4", "6e-4", "1.2e-3"],
    "divergence": ["3e-4", "6e-4", "1.2e-3"],
}
SOURCE = "toy"
PASS = f"verl_ext/val/{SOURCE}/pass@1"


class Runs:
    """Whole runs below a folder, made where they are not there yet."""

    def __init__(self, out: Path, steps: int, jobs: int) -> None:
        self.out, self.steps, self.jobs = out, steps, jobs
        self.validation = out / "val.parquet"
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(toy_run.prompts("opd", SOURCE), self.validation)

    def series(self, wanted: Iterable[tuple[str, str, int]]) -> list[Series]:
        """The accuracy over the steps of each (method, rate, seed)."""
        with ThreadPoolExecutor(self.jobs) as pool:
            return [log.series[PASS] for log in pool.map(self._log, wanted)]

    def _log(self, wanted: tuple[str, str, int]) -> RunLog:
        method, rate, seed = wanted
        overrides = [
            f"actor_rollout_ref.actor.optim.lr={rate}",
            f"data.seed={seed}",
            f"data.val_files={self.validation}",
            *METHODS[method],
        ]
        return toy_run.run(self.out / f"{method}_{rate}_{seed}", self.steps, overrides)


def steps_to(series: Series, accuracy: float) -> float:
    """The step at which a run first has it; infinite if it never does."""
    points = list(zip(series.steps, series.values, strict=True))
    if points[0][1] >= accuracy:
        return float(points[0][0])
    for (step, value), (after, reached) in pairwise(points):
        if reached >= accuracy:
            return step + (after - step) * (accuracy - value) / (reached - value)
    return float("inf")


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
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["opd", "grpo"])
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--accuracy", type=float, default=0.5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--every-seed", action="store_true", help="of every rate, not the best")
    args = parser.parse_args(arguments)
    runs = Runs(args.out.absolute(), args.steps, args.jobs)
    first, *others = args.seeds
    tried = [(method, rate) for method in args.methods for rate in RATES[method]]
    with_seeds = args.seeds if args.every_seed else [first]
    wanted = [(method, rate, seed) for seed in with_seeds for method, rate in tried]
    found: dict[tuple[str, str], list[Series]] = {pair: [] for pair in tried}
    for (method, rate, _), series in zip(wanted, runs.series(wanted), strict=True):
        found[method, rate].append(series)

    def median(pair: tuple[str, str]) -> float:
        return statistics.median(steps_to(series, args.accuracy) for series in found[pair])

    of_method = [[pair for pair in tried if pair[0] == method] for method in args.methods]
    best = [min(pairs, key=median) for pairs in of_method]
    if not args.every_seed:
        more = [(*pair, seed) for seed in others for pair in best]
        for (method, rate, _), series in zip(more, runs.series(more), strict=True):
            found[method, rate].append(series)
    rows = [("method", "rate", f"steps to {args.accuracy}", "of each seed", "pass@1 at the end")]
    for method, rate in tried:
        each = [steps_to(series, args.accuracy) for series in found[method, rate]]
        ends = statistics.median(series.values[-1] for series in found[method, rate])
        shown = ", ".join(f"{steps:.1f}" for steps in each)
        rows.append((method, rate, f"{statistics.median(each):.1f}", shown, f"{ends:.3f}"))
    print("\n".join(aligned(rows, 2)))
    teacher = toy_run.accuracy(world.ensure("opd").part("teacher"), "opd", SOURCE)
    print(f"teacher: {teacher:.3f}; 80 % of it: {0.8 * teacher:.3f}")
    least = {pair[0]: median(pair) for pair in best}
    if {"opd", "grpo"} <= set(least):
        print(f"opd / grpo, steps to {args.accuracy}: {least['opd'] / least['grpo']:.2f}")
    curves = {f"{method}, {rate}": found[method, rate] for method, rate in best}
    draw(curves, teacher, args.accuracy, runs.out / "distillation.png")
    print(f"picture: {runs.out}/distillation.png")


if __name__ == "__main__":
    main()
