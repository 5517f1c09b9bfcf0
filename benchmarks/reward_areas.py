"""How well rewards know right responses from wrong ones: the table and the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import matplotlib
import torch

from verl_ext.metrics.ranks import auc, spearman
from verl_ext.plotting.panels import COLOURS, DPI, GREY, STYLE, grid, headline
from verl_ext.reward_fns.reference_probability import REDUCTIONS
from verl_ext.text_table import aligned

EXACT, DEBIASED = "exact match", "mean, debiased"
NAMES = {  # in the table -> in the picture
    EXACT: "exact match",
    "mean": "mean",
    "geometric_mean": "geometric mean",
    "product": "product",
    "mean_log_prob": "mean log-prob",
    DEBIASED: "mean, debiased",
}


@dataclass(frozen=True)
class Scored:
    """One response and what is said of it.

    Attributes:
        prompt: number of its prompt; text: decoded; tokens: sampled, the end of the turn included;
        entropy: mean over its tokens, in nats; right: by the hidden judge;
        in_format: whether it could be spliced; rewards: by the names in ``NAMES``.
    """

    prompt: int
    text: str
    tokens: int
    entropy: float
    right: bool
    in_format: bool
    rewards: dict[str, float]


def areas(given: Sequence[Scored], name: str) -> tuple[float, float]:
    """The area of one reward over all responses, and its mean within prompts."""

    def area(some: Sequence[Scored]) -> float:
        rewards = torch.tensor([one.rewards[name] for one in some])
        return auc(rewards, torch.tensor([one.right for one in some]))

    groups: dict[int, list[Scored]] = {}
    for one in given:
        groups.setdefault(one.prompt, []).append(one)
    mixed = [group for group in groups.values() if len({one.right for one in group}) == 2]
    return area(given), fmean(area(group) for group in mixed)


def report(given: Sequence[Scored]) -> dict[str, tuple[float, float]]:
    """Prints the table and returns the areas."""
    right = [one for one in given if one.right]
    exact = sum(one.rewards[EXACT] for one in right)
    print(
        f"{len(given)} responses, in the format {fmean(one.in_format for one in given):.1%}, "
        f"right {len(right) / len(given):.1%}, of these in the reference's wording "
        f"{exact / len(right):.1%}\n"
    )
    table = {name: areas(given, name) for name in NAMES}
    lines = [("reward", "AUC, all responses", "AUC, within prompts")]
    lines += [(name, *(f"{value:.3f}" for value in pair)) for name, pair in table.items()]
    print("\n".join(aligned(lines, 1)))
    print("\nSpearman's correlation with the response's")
    lines = [("reward", "length", "entropy")]
    for name in (*REDUCTIONS, DEBIASED):
        rewards = torch.tensor([one.rewards[name] for one in given])
        others = [[float(one.tokens) for one in given], [one.entropy for one in given]]
        lines.append((name, *(f"{spearman(rewards, torch.tensor(o)):+.3f}" for o in others)))
    print("\n".join(aligned(lines, 1)))
    return table


@matplotlib.rc_context(STYLE)
def draw(given: Sequence[Scored], table: dict[str, tuple[float, float]], path: Path) -> None:
    """Writes a PNG: the reward of right and wrong responses, and every reward's area."""
    figure, (left, middle) = grid(2)
    bins = [i / 25 for i in range(26)]
    for right, colour, what in ((False, COLOURS[1], "wrong"), (True, COLOURS[0], "right")):
        values = [one.rewards[DEBIASED] for one in given if one.right is right]
        weights = [1 / len(values)] * len(values)
        left.hist(values, bins, weights=weights, color=colour, alpha=0.65)
        height = 0.94 - 0.09 * right
        text = f"{what}  {fmean(values):.2f} on average"
        left.text(0.97, height, text, color=colour, weight="bold", ha="right",
                  transform=left.transAxes)  # fmt: skip
    left.set(title="reward of a response", xlim=(0, 1), xlabel="debiased probability")
    left.set_ylabel("share of the responses")
    left.grid(axis="x", visible=False)

    places = range(len(table))
    within = [pair[1] for pair in table.values()]
    colours = [GREY if name == EXACT else COLOURS[0] for name in table]
    bars = middle.barh(places, [area - 0.5 for area in within], 0.66, 0.5, color=colours)
    middle.bar_label(bars, [f"{area:.2f}" for area in within], padding=3)
    middle.set_yticks(places, [NAMES[name] for name in table])
    middle.set(title="how often right is above wrong", xlim=(0.5, 1.06), xlabel="AUC in a prompt")
    middle.invert_yaxis()
    middle.grid(axis="y", visible=False)
    middle.tick_params(axis="y", length=0)
    prompts = len({one.prompt for one in given})
    headline(figure, "Reference probability", f"{len(given)} responses to {prompts} prompts")
    figure.savefig(path, format="png", dpi=DPI)
