"""RLPR on the toy world, on the CPU, and what it loses without each of its parts.

    python benchmarks/rlpr.py OUT [--methods ...] [--seeds 1 2 3] [--steps 40] [--jobs 1]

The toy's answers are free-form: right in any wording, while a rule that compares texts accepts the
reference's own wording alone. No method sees the judge that the validation asks.

rlpr          the probability of the reference after the response's reasoning
on Megatron   the same; rlpr is on FSDP2
no debiasing  the same without subtracting the probability without reasoning
product       the likelihood of the whole reference instead of the mean token probability
no filter     all prompts, whatever the spread of their rewards
exact match   GRPO on a rule: is the answer the reference, word for word?

Runs that OUT already has are not repeated. At the end a table, and OUT/rlpr.png: the median over
the seeds of the accuracy in validation, with all seeds thin behind it.
"""

import argparse
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import toy_run

from verl_ext.plotting.panels import DPI, STYLE, grid, headline
from verl_ext.run_log import RunLog
from verl_ext.text_table import aligned

OURS = "algorithm.verl_ext"
REWARD = f"{OURS}.group_reward.reference_probability"
NO_FILTER = f"~{OURS}.masks.std_filter"
METHODS = {
    "rlpr": [],
    "on Megatron": ["model_engine=megatron"],
    "no debiasing": [f"{REWARD}.debias=none"],
    "product": [f"{REWARD}.reduction=product"],
    "no filter": [NO_FILTER],
    "exact match": [
        f"~{OURS}.group_reward",
        "+reward.custom_reward_function.reward_kwargs.exact=true",
    ],
}
SOURCE = "toy"
# Three times the overlay's, which is for the sixty steps of its line: less to wait for.
RATE = "actor_rollout_ref.actor.optim.lr=3e-4"


def run(out: Path, method: str, seed: int, steps: int) -> RunLog:
    """A run's log, from disk if it is whole there."""
    overrides = [f"data.seed={seed}", RATE, *METHODS[method]]
    return toy_run.run(out / f"{method.replace(' ', '_')}_{seed}", steps, overrides, paper="rlpr")


@matplotlib.rc_context(STYLE)
def draw(found: dict[str, list[RunLog]], path: Path) -> None:
    """The picture of the module's text."""
    figure, (axes,) = grid(1, width=7.5)
    toy_run.draw_methods(axes, found, SOURCE)
    axes.set_ylabel("right in any wording")
    axes.set_title(f"validation: {SOURCE}")
    seeds = len(next(iter(found.values())))
    headline(figure, "RLPR without a verifier", f"{seeds} seed{'s' * (seeds > 1)}")
    figure.savefig(path, format="png", dpi=DPI)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    wanted = [(method, seed) for seed in args.seeds for method in args.methods]
    with ThreadPoolExecutor(args.jobs) as pool:
        logs = list(pool.map(lambda one: run(out, *one, args.steps), wanted))
    by_run = dict(zip(wanted, logs, strict=True))
    found = {method: [by_run[method, seed] for seed in args.seeds] for method in args.methods}
    table = [("method", "first", "last, by seed", "median")]
    for method, of_method in found.items():
        last = [toy_run.ended(log, SOURCE) for log in of_method]
        first = of_method[0].pass_at_k(SOURCE)[1].values[0]
        shown = " ".join(f"{value:.2f}" for value in last)
        table.append((method, f"{first:.2f}", shown, f"{statistics.median(last):.2f}"))
    print("\n" + "\n".join(aligned(table, names=1)))
    draw(found, out / "rlpr.png")
    print(f"\npicture: {out / 'rlpr.png'}")


if __name__ == "__main__":
    main()
