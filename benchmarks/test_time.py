"""One hard question: generations until it is solved, beside best-of-k, on the toy, on the CPU.

    python benchmarks/test_time.py OUT [--seeds 1 2 3 4 5] [--steps 60] [--samples 3000]

Each seed is a whole run of `+paper=sdpo_test_time +scale=cpu`. Best-of-k is exact but for one
number, the share of right answers among SAMPLES of the policy before any training: of k responses
at least one is right with probability 1 - (1 - share)^k. Where no sample is right, the share is
taken to be one in SAMPLES, which flatters best-of-k.

Runs that OUT already has are not repeated. At the end a table, and OUT/test_time.png: the share of
the runs that are solved after k generations, and best-of-k.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
import toy_run

from verl_ext import run_log
from verl_ext.plotting.panels import COLOURS, DPI, GREY, STYLE, end_labels, grid, headline
from verl_ext.text_table import aligned
from verl_ext.toy import answers, world

VARIANT = "sdpo_hard"
METRIC = "verl_ext/test_time"


def run(folder: Path, seed: int, steps: int) -> tuple[int, bool]:
    """(generations, solved) of a run, from disk if it is whole there."""

    def seen() -> tuple[int, int, bool]:
        log = run_log.read(folder / "run" / "metrics.jsonl")
        count, solved = (
            log.series[f"{METRIC}/{name}"].values[-1] for name in ("generations", "solved")
        )
        return log.last_step, int(count), bool(solved)

    metrics = folder / "run" / "metrics.jsonl"
    last, count, solved = seen() if metrics.exists() else (0, 0, False)
    if not solved and last < steps:
        toy_run.launch(
            folder, "sdpo_test_time", [f"data.seed={seed}", f"trainer.total_training_steps={steps}"]
        )
        _, count, solved = seen()
    return count, solved


def untrained(samples: int) -> tuple[str, int]:
    """The question, and how many of the samples are right before any training."""
    toy = world.ensure(VARIANT)
    (row,) = pq.read_table(toy.train).to_pylist()
    (found,) = answers.sample_answers(toy.model, [row["prompt"]], samples)
    right = sum(answer.text == row["reward_model"]["ground_truth"] for answer in found)
    return row["prompt"][0]["content"], right


@matplotlib.rc_context(STYLE)
def draw(found: Sequence[tuple[int, bool]], share: float, question: str, path: Path) -> None:
    """The picture of the module's text."""
    figure, (axes,) = grid(1, width=7.5)
    most = max(count for count, _ in found)
    k = np.arange(1, most + 1)
    solved = np.mean([[count <= at and done for at in k] for count, done in found], axis=0)
    best = 1 - (1 - share) ** k
    axes.step(k, solved, where="post", color=COLOURS[0])
    axes.plot(k, best, color=GREY, linestyle="--")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("generations")
    axes.set_ylabel("share solved")
    marks = [
        (solved[-1], f"test-time self-distillation  {solved[-1]:.2f}", COLOURS[0]),
        (best[-1], f"best of k  {best[-1]:.2f}", GREY),
    ]
    end_labels(axes, marks)
    headline(figure, "One hard question", f"{question}  {len(found)} runs")
    figure.savefig(path, format="png", dpi=DPI)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--steps", type=int, default=60, help="at most, of 8 responses")
    parser.add_argument("--samples", type=int, default=3000)
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    found = [run(out / f"seed_{seed}", seed, args.steps) for seed in args.seeds]
    question, right = untrained(args.samples)
    share = max(right, 1) / args.samples
    rows = [("seed", "generations", "solved", "best of as many")]
    for seed, (count, solved) in zip(args.seeds, found, strict=True):
        chance = 1 - (1 - share) ** count
        rows.append((str(seed), str(count), "yes" if solved else "no", f"{chance:.3f}"))
    print("\n".join(aligned(rows, names=1)))
    print(f"\n{question} untrained: {right} of {args.samples} right")
    draw(found, share, question, out / "test_time.png")
    print(f"picture: {out / 'test_time.png'}")


if __name__ == "__main__":
    main()
