"""Which task gets the gradient, by how advantages are normalised, as one task's rewards grow.

    python benchmarks/task_share.py [--scaled toy_exact] [--synthetic] [--plot FILE.png]

Rewards are those of the three tasks of the toy world, from answers that its model samples (built
on first use, about a minute; needs transformers, no verl), or from seeded draws that resemble them.
What is shared out is the summed |advantage| over sampled tokens, in a batch with as many prompts
of each task, where one task's rewards are multiplied by 1, 10 and 100.

Acceptance: under task_norm no share moves by 1e-6 or more, in float64 and in float32; under
centring alone the odds of the scaled task (share against the others' shares) grow as its rewards.
"""

import argparse
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from verl_ext.advantage_fns.task_norm import task_norm
from verl_ext.metrics.task_share import advantage_share
from verl_ext.tensor_ops import spread_over_tokens
from verl_ext.toy.reward import compute_score
from verl_ext.toy.task import OUTER

TASKS = tuple(OUTER)
FACTORS = (1, 10, 100)
EPS, TOLERANCE = 1e-6, 1e-6

# For --synthetic, after what the model does: the two parameters of a Beta distribution of a
# prompt's accuracy, the rewards of wrong answers, the right answer's reward and its tokens.
RESEMBLING: dict[str, tuple[float, float, list[float], float, int]] = {
    "toy_exact": (0.7, 0.7, [0.0], 1.0, 4),
    "toy_letters": (0.6, 1.4, [0.55, 0.67, 0.75, 0.83], 1.0, 7),
    "toy_points": (0.6, 1.4, [0.0, 1.67, 3.33, 5.0], 10.0, 7),
}


@dataclass(frozen=True)
class Batch:
    """Responses with one reward each: the rows of a prompt, and of a task, stand together."""

    rewards: list[float]
    lengths: list[int]  # sampled tokens
    samples: int  # rows of a prompt

    @property
    def groups(self) -> list[int]:
        """Number of each row's prompt."""
        return [row // self.samples for row in range(len(self.rewards))]

    @property
    def tasks(self) -> list[str]:
        """Name of each row's task; as many rows for each."""
        return [task for task in TASKS for _ in range(len(self.rewards) // len(TASKS))]

    def of_task(self, task: str) -> Tensor:
        """The rewards of one task, (prompts, samples)."""
        pairs = zip(self.tasks, self.rewards, strict=True)
        own = [reward for name, reward in pairs if name == task]
        return torch.tensor(own, dtype=torch.float64).view(-1, self.samples)


Table: TypeAlias = dict[str, list[dict[Hashable, float]]]  # method -> shares for each factor


def sampled_batch(prompts: int, samples: int, seed: int) -> Batch:
    """Answers of the warmed-up model to training prompts, sampled at temperature 1."""
    import pyarrow.parquet as pq

    from verl_ext.toy.answers import sample_answers
    from verl_ext.toy.world import ensure

    world = ensure("three_tasks")
    rows = pq.read_table(world.train).to_pylist()
    rewards, lengths = [], []
    for task in TASKS:
        of_task = [row for row in rows if row["data_source"] == task]
        if len(of_task) < prompts:
            raise SystemExit(f"{task} has {len(of_task)} prompts, asked for {prompts}")
        chosen = random.Random(seed).sample(of_task, prompts)
        answers = sample_answers(world.model, [row["prompt"] for row in chosen], samples, seed=seed)
        for row, own in zip(chosen, answers, strict=True):
            truth = row["reward_model"]["ground_truth"]
            rewards += [compute_score(task, answer.text, truth)["score"] for answer in own]
            lengths += [answer.tokens for answer in own]
    return Batch(rewards, lengths, samples)


def synthetic_batch(prompts: int, samples: int, seed: int) -> Batch:
    """Seeded rewards: each prompt has its accuracy, a wrong answer one of its task's rewards."""
    rng = random.Random(seed)
    rewards, lengths = [], []
    for task in TASKS:
        alpha, beta, wrong, right, length = RESEMBLING[task]
        for _ in range(prompts):
            accuracy = rng.betavariate(alpha, beta)
            for _ in range(samples):
                rewards.append(right if rng.random() < accuracy else rng.choice(wrong))
                lengths.append(length)
    return Batch(rewards, lengths, samples)


def centred(rewards: Tensor, mask: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """Each outcome minus the mean of its group, divided by nothing."""
    outcomes, index = rewards.sum(-1), torch.tensor(groups)
    size = torch.bincount(index).to(outcomes.dtype)
    sums = torch.zeros_like(size).index_add_(0, index, outcomes)
    return spread_over_tokens(outcomes - (sums / size)[index], mask)


# Whose deviation an outcome, less the mean of its prompt, is divided by: task_norm with one task
# for all is the normalisation by batch, and with each prompt a task of its own GRPO.
OVER: dict[str, Callable[[Batch], Sequence[Hashable]] | None] = {
    "centred only": None,
    "std of the batch": lambda batch: [0] * len(batch.groups),
    "GRPO, std of the prompt": lambda batch: batch.groups,
    "task_norm, std of the task": lambda batch: batch.tasks,
}
CENTRED, OURS = "centred only", "task_norm, std of the task"


def shares(
    batch: Batch, method: str, scaled: str, factor: float, dtype: torch.dtype = torch.float64
) -> dict[Hashable, float]:
    """Each task's share of the summed |advantage| where one task's rewards have a factor."""
    pairs = zip(batch.tasks, batch.rewards, strict=True)
    outcomes = [reward * factor if task == scaled else reward for task, reward in pairs]
    lengths = torch.tensor(batch.lengths)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
    rewards = torch.zeros(mask.shape, dtype=dtype)
    rewards[torch.arange(len(mask)), lengths - 1] = torch.tensor(outcomes, dtype=dtype)
    if over := OVER[method]:
        advantages, _ = task_norm(rewards, mask, batch.groups, over(batch), eps=EPS)
    else:
        advantages = centred(rewards, mask, batch.groups)
    return advantage_share(advantages, mask, batch.tasks)


def print_rewards(batch: Batch) -> None:
    print(f"{'task':<14}{'mean':>8}{'std':>8}{'std in a prompt':>18}{'prompts without spread':>25}")
    for task in TASKS:
        values = batch.of_task(task)
        same = (values == values[:, :1]).all(-1).double().mean()
        print(
            f"{task:<14}{values.mean():>8.3f}{values.std():>8.3f}"
            f"{values.std(-1).mean():>18.3f}{same:>25.0%}"
        )


def print_shares(table: Table, scaled: str) -> None:
    print(f"\nshare of the summed |advantage|, rewards of {scaled} times {FACTORS}")
    print(" " * 28 + "".join(f"{task:<24}" for task in TASKS))
    for method, by_factor in table.items():
        cells = ["".join(f"{one[task]:>7.1%}" for one in by_factor) for task in TASKS]
        print(f"{method:<28}" + "   ".join(cells))


def accepted(batch: Batch, table: Table, scaled: str) -> bool:
    """Prints what was measured against the acceptance at the top of this file."""
    print(f"\ntask_norm (eps {EPS:g}): largest change of a share from x 1 to x {FACTORS[-1]}")
    good = True
    for task in TASKS:
        changes = []
        for dtype in (torch.float64, torch.float32):
            small, large = (shares(batch, OURS, task, f, dtype) for f in (1, FACTORS[-1]))
            changes.append(max(abs(large[name] - small[name]) for name in TASKS))
        # Of std + eps the part eps falls away; a share x moves by x (1 - x) <= 1/4 of that.
        bound = EPS / batch.of_task(task).std().item() / 4
        verdict = ""
        if task == scaled:
            good = max(changes) < TOLERANCE
            verdict = f"  {'accepted' if good else 'NOT ACCEPTED'} (< {TOLERANCE:g})"
        print(
            f"  {task} scaled: float64 {changes[0]:.1e}, float32 {changes[1]:.1e}; "
            f"eps / (4 std) = {bound:.1e}{verdict}"
        )
    odds = [one_share[scaled] / (1 - one_share[scaled]) for one_share in table[CENTRED]]
    growth = torch.tensor(odds, dtype=torch.float64) / odds[0]
    in_proportion = bool(((growth / torch.tensor(FACTORS) - 1).abs() < 1e-9).all())
    verdict = "accepted" if in_proportion else "NOT ACCEPTED"
    shown = ", ".join(f"{value:.6f}" for value in growth)
    print(f"centred only: odds of {scaled} times {shown}: {verdict} (in proportion)")
    return good and in_proportion


def draw(table: Table, scaled: str, path: Path) -> None:
    """Writes a PNG: a panel per method, a bar per factor, parted by task."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from verl_ext.plotting.panels import COLOURS, DPI, STYLE, headline

    # The scaled task stands on the axis: its bars are the ones to compare.
    order = sorted(TASKS, key=lambda task: task != scaled)
    bars = range(len(FACTORS))
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "axes.spines.left": False}):
        figure = Figure((2.6 * len(table) + 1, 3.9), layout=ConstrainedLayoutEngine(w_pad=0.08))
        panels = figure.subplots(1, len(table), sharey=True)
        for axes, (method, by_factor) in zip(panels, table.items(), strict=True):
            low = [0.0] * len(FACTORS)
            for task in order:
                colour = COLOURS[TASKS.index(task)]
                heights = [one_share[task] for one_share in by_factor]
                drawn = axes.bar(bars, heights, 0.78, low, color=colour, edgecolor="white")
                labels = [f"{height:.0%}" if height >= 0.05 else "" for height in heights]
                axes.bar_label(drawn, labels, label_type="center", color="white")
                if axes is panels[-1]:
                    middle = low[-1] + heights[-1] / 2
                    axes.text(2.5, middle, task, color=colour, va="center", weight="bold")
                low = [below + height for below, height in zip(low, heights, strict=True)]
            axes.set(title=method.replace(", ", "\n"), ylim=(0, 1), yticks=[])
            axes.set_xticks(bars, [f"× {factor}" for factor in FACTORS])
            axes.tick_params(length=0)
        panels[0].set_ylabel("share of the summed |advantage|")
        headline(figure, "Who gets the gradient", f"as the rewards of {scaled} grow")
        figure.savefig(path, format="png", dpi=DPI)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--scaled", choices=TASKS, default="toy_exact", help="default: %(default)s")
    add("--prompts", type=int, default=64, help="per task; default: %(default)s")
    add("--samples", type=int, default=8, help="per prompt; default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--synthetic", action="store_true", help="draw rewards; samples no model")
    add("--plot", type=Path, metavar="FILE.png", help="where to draw it")
    args = parser.parse_args()
    answer = synthetic_batch if args.synthetic else sampled_batch
    batch = answer(args.prompts, args.samples, args.seed)
    print(f"{args.prompts} prompts of each task, {args.samples} samples each, seed {args.seed}")
    print_rewards(batch)
    table = {
        method: [shares(batch, method, args.scaled, factor) for factor in FACTORS]
        for method in OVER
    }
    print_shares(table, args.scaled)
    if args.plot:
        draw(table, args.scaled, args.plot)
    return int(not accepted(batch, table, args.scaled))


if __name__ == "__main__":
    raise SystemExit(main())
