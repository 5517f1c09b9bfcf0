"""A tournament against pointwise scores, under one noisy judge, on the CPU.

    python benchmarks/arena_rl.py OUT [--sizes 4 8 16] [--seeds 1] [--steps 32] [--jobs 1] \
        [--engine megatron]

The toy's answers have a hidden quality, and a simulated judge: what it gives in a call moves with
its mood, which both responses of a pair share and a response judged alone does not. Each response
is judged alone twice, or the group plays the seeded single elimination; the table says how many
calls that took.

Runs that OUT already has are not repeated. At the end a table, and OUT/arena_rl.png: the hidden
quality in validation for each group size, the median over the seeds with all of them thin behind.
"""

import argparse
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import toy_run

from verl_ext.plotting.panels import COLOURS, DPI, STYLE, end_labels, grid, headline, step_axis
from verl_ext.run_log import RunLog
from verl_ext.text_table import aligned

SECTION = "algorithm.verl_ext.group_reward.tournament"
METHODS = {
    "tournament": [],
    "pointwise": [f"{SECTION}.topology=pointwise", f"{SECTION}.calls=2"],
}
QUALITY = f"val-aux/toy/score/mean@{toy_run.SAMPLES}"
CALLS, SPREAD, NOISE = (f"verl_ext/tournament/{name}" for name in ("calls", "spread", "noise"))
RATE = "actor_rollout_ref.actor.optim.lr=3e-4"


def run(out: Path, engine: str, method: str, size: int, seed: int, steps: int) -> RunLog:
    """A run's log, from disk if it is whole there."""
    of_run = [f"model_engine={engine}", f"data.seed={seed}", f"actor_rollout_ref.rollout.n={size}"]
    name = f"{method}_{size}_{seed}" + ("" if engine == "dp" else f"_{engine}")
    return toy_run.run(out / name, steps, [RATE, *of_run, *METHODS[method]], paper="arena_rl")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--engine", choices=["dp", "megatron"], default="dp", help="dp: FSDP2")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    wanted = [(m, size, seed) for seed in args.seeds for size in args.sizes for m in METHODS]
    with ThreadPoolExecutor(args.jobs) as pool:
        logs = dict(
            zip(
                wanted,
                pool.map(lambda one: run(out, args.engine, *one, args.steps), wanted),
                strict=True,
            )
        )
    table = [("group", "reward", "quality", "after, by seed", "calls a step", "spread", "noise")]
    for size in args.sizes:
        for method in METHODS:
            of_method = [logs[method, size, seed] for seed in args.seeds]
            curves = [log.series[QUALITY] for log in of_method]
            calls, spread, noise = (
                statistics.mean(v for log in of_method for v in log.series[name].values)
                for name in (CALLS, SPREAD, NOISE)
            )
            after = " ".join(f"{statistics.mean(curve.values[-2:]):.3f}" for curve in curves)
            first = f"{curves[0].values[0]:.3f}"
            row = (f"{calls:.0f}", f"{spread:.2f}", f"{noise:.2f}")
            table.append((str(size), method, first, after, *row))
    print("\n" + "\n".join(aligned(table, names=2)))
    draw(args.sizes, args.seeds, logs, out / "arena_rl.png")
    print(f"\npicture: {out / 'arena_rl.png'}")


@matplotlib.rc_context(STYLE)
def draw(sizes: Sequence[int], seeds: Sequence[int], logs: dict, path: Path) -> None:
    """The picture of the module's text."""
    figure, panels = grid(len(sizes))
    for axes, size in zip(panels, sizes, strict=True):
        marks = []
        for colour, method in zip(COLOURS, METHODS, strict=False):
            curves = [logs[method, size, seed].series[QUALITY] for seed in seeds]
            for curve in curves:
                axes.plot(curve.steps, curve.values, color=colour, linewidth=0.7, alpha=0.4)
            middle = [statistics.median(at) for at in zip(*(c.values for c in curves), strict=True)]
            axes.plot(curves[0].steps, middle, color=colour)
            marks.append((middle[-1], f"{method}  {middle[-1]:.2f}", colour))
        step_axis(axes, curves[0].steps[-1])
        end_labels(axes, marks)
        axes.set_title(f"groups of {size}")
    panels[0].set_ylabel("hidden quality")
    headline(figure, "Tournament and pointwise rewards", "one noisy judge")
    figure.savefig(path, format="png", dpi=DPI)


if __name__ == "__main__":
    main()
