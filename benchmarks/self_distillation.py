"""Learning from hints: SDPO beside GRPO and with it, on the toy world, on the CPU.

    python benchmarks/self_distillation.py OUT [--methods ...] [--seeds 1 2 3] [--steps 36]
        [--jobs 1]

Every method samples 8 responses to each of 16 prompts a step and makes one update of them, on the
model that `+paper=sdpo` trains. A method has two learning rates: each runs with the first seed, the
one with the higher accuracy at the end with the others too.

grpo             the reward alone
sdpo             the policy that has seen a sibling's success judges the failures
sdpo, feedback   where no sibling succeeded it sees what the environment said
sdpo + grpo      both, and the same with feedback

Runs that OUT already has are not repeated. At the end a table, and OUT/self_distillation.png: a
panel for each rate, the median over the seeds, with all seeds thin behind it.
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

KEY = "algorithm.verl_ext"
FEEDBACK = f"{KEY}.teacher.hints.include_feedback=true"
GRPO = f"{KEY}.advantage.task_estimator=grpo"
METHODS = {
    "grpo": [GRPO, f"{KEY}.divergence=null"],
    "sdpo": [],
    "sdpo, feedback": [FEEDBACK],
    "sdpo + grpo": [GRPO],
    "sdpo + grpo, feedback": [GRPO, FEEDBACK],
}
RATES = ("3e-4", "1e-3")
SOURCE = "toy"


def run(out: Path, method: str, rate: str, seed: int, steps: int) -> RunLog:
    """A run's log, from disk if it is whole there."""
    name = method.replace(" ", "").replace(",", "_")
    overrides = [f"actor_rollout_ref.actor.optim.lr={rate}", f"data.seed={seed}", *METHODS[method]]
    return toy_run.run(out / f"{name}_{rate}_{seed}", steps, overrides, paper="sdpo")


@matplotlib.rc_context(STYLE)
def draw(runs: dict[tuple[str, str], list[RunLog]], path: Path) -> None:
    """The picture of the module's text, from (method, rate) -> its runs, one a seed."""
    figure, panels = grid(len(RATES), width=6.0)
    for axes, rate in zip(panels, RATES, strict=True):
        of_rate = {method: logs for (method, of_run), logs in runs.items() if of_run == rate}
        toy_run.draw_methods(axes, of_rate, SOURCE)
        axes.set_title(f"learning rate {rate}")
    panels[0].set_ylabel(f"pass@1, validation: {SOURCE}")
    headline(figure, "Hints or reward", "the same generations")
    figure.savefig(path, format="png", dpi=DPI)


def _others(found: dict[tuple[str, str, int], RunLog], pair: tuple[str, str]) -> list[RunLog]:
    return [log for (method, rate, _), log in found.items() if (method, rate) == pair]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args(arguments)
    out, (first, *others) = args.out.absolute(), args.seeds

    def runs(wanted: list[tuple[str, str, int]]) -> list[RunLog]:
        with ThreadPoolExecutor(args.jobs) as pool:
            return list(pool.map(lambda one: run(out, *one, args.steps), wanted))

    pairs = [(method, rate) for method in args.methods for rate in RATES]
    tried = dict(zip(pairs, runs([(*pair, first) for pair in pairs]), strict=True))
    rates = {
        method: max(RATES, key=lambda rate: toy_run.ended(tried[method, rate], SOURCE))
        for method in args.methods
    }
    more = [(method, rates[method], seed) for method in args.methods for seed in others]
    found = dict(zip(more, runs(more), strict=True))
    best = {
        method: [tried[method, rates[method]], *(found[method, rates[method], s] for s in others)]
        for method in args.methods
    }
    table = [("method", "rate", "first", "last, by seed", "median", "the other rate")]
    for method, logs in best.items():
        (other,) = set(RATES) - {rates[method]}
        last = [toy_run.ended(log, SOURCE) for log in logs]
        table.append(
            (
                method,
                rates[method],
                f"{logs[0].pass_at_k(SOURCE)[1].values[0]:.2f}",
                " ".join(f"{value:.2f}" for value in last),
                f"{statistics.median(last):.2f}",
                f"{toy_run.ended(tried[method, other], SOURCE):.2f}",
            )
        )
    print("\n" + "\n".join(aligned(table, names=1)))
    draw(
        {pair: [tried[pair], *_others(found, pair)] for pair in pairs},
        out / "self_distillation.png",
    )
    print(f"\npicture: {out / 'self_distillation.png'}")


if __name__ == "__main__":
    main()
