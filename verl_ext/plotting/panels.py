"""What all pictures share: style, grid of panels, heading, labels at the ends of lines."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, TypeGuard

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from verl_ext.run_log import REWARD, RunLog, Series

# Okabe and Ito's colours, told apart by every kind of colour vision; their yellow is too pale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#6B7280"
ENTROPY = "actor/entropy"
TRAINING = {  # metric -> title and unit of its panel
    REWARD: ("training reward", "mean over responses"),
    ENTROPY: ("entropy", "nats per token"),
    "response_length/mean": ("response length", "tokens"),
}
TEACHING = {  # the same; only of runs with a teacher
    "verl_ext/teacher/reverse_kl": ("KL to the teacher", "nats per token"),
    "verl_ext/divergence/loss": ("teacher divergence", "nats per token"),
}
STYLE: Any = {  # not dict: matplotlib types the key as a long list of literals
    "axes.axisbelow": True,
    "axes.edgecolor": "#9CA3AF",
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "font.size": 9.5,
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.9,
    "lines.markersize": 3.5,
    "lines.solid_capstyle": "round",
    "text.color": "#111827",
    "xtick.color": GREY,
    "ytick.color": GREY,
}
PANEL = (4.6, 3.1)  # inches
DPI = 150
LINE_HEIGHT = 0.075  # of a label, in heights of a panel


def grid(
    count: int, width: float = PANEL[0], columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure and its ``count`` panels, in reading order; ``width`` in inches of each."""
    if columns is None:
        columns = 1 if count == 1 else 2 if count <= 4 else 3
    rows = math.ceil(count / columns)
    size = (width * columns + 0.6, PANEL[1] * rows + 0.5)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def headline(figure: Figure, title: str, rest: str) -> None:
    """Writes the heading of a figure: its name, and what else to know."""
    figure.suptitle(f"{title}  ·  {rest}", fontsize=13, x=0.012, ha="left")


def step_axis(axes: Axes, last_step: int) -> None:
    """Makes the x axis the training steps, from before training to ``last_step``."""
    axes.set_xlim(0, max(last_step, 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("training step")


def share_axis(axes: Axes, curves: Iterable[Series]) -> None:
    """Shows all of [0, 1] where the curves are shares; a mean reward may lie anywhere."""
    if all(not (value < 0 or value > 1) for curve in curves for value in curve.values):
        axes.set_ylim(0, 1)


def check_labels(logs: Sequence[RunLog], labels: Sequence[str]) -> None:
    """Refuses no runs at all, and any but one label for each run.

    Raises:
        ValueError: with both numbers.
    """
    if not logs or len(logs) != len(labels):
        raise ValueError(f"{len(logs)} runs and {len(labels)} labels: give one label for each run")


def end_labels(axes: Axes, marks: list[tuple[float, str, Any]]) -> None:
    """Writes each line's label right of its end, moved apart where they would overlap."""
    ordered = sorted(marks, key=lambda mark: mark[0])
    low, high = axes.get_ylim()
    heights = spread([(value - low) / (high - low) for value, _, _ in ordered])
    for height, (_, text, colour) in zip(heights, ordered, strict=True):
        axes.annotate(
            text,
            (1, height),
            xytext=(7, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            fontsize=8.5,
            va="center",
        )


def spread(values: Sequence[float]) -> list[float]:
    """The heights nearest to ascending ``values`` that keep LINE_HEIGHT between neighbours.

    All between 0 and 1, the bottom and the top of a panel, if there is room for so many.
    """
    # In v_i - i·LINE_HEIGHT "far enough apart" is "not descending": pool neighbours that descend.
    pools: list[list[float]] = []
    for index, value in enumerate(values):
        pools.append([value - index * LINE_HEIGHT])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    room = 1 - (len(values) - 1) * LINE_HEIGHT
    if room >= 0:
        levels = [min(max(level, 0.0), room) for level in levels]
    return [level + index * LINE_HEIGHT for index, level in enumerate(levels)]


def before_after(series: Series) -> str:
    """The first and the last finite value, in words."""
    finite = [value for value in series.values if math.isfinite(value)]
    return f"{short(finite[0])} → {short(finite[-1])}" if finite else "not a number"


def short(value: float) -> str:
    """The value to two decimals; a hundred and more without any, to leave room for its name."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def last_finite(values: Sequence[float]) -> float:
    """The last finite value, where a line ends; 0 if there is none."""
    return next((value for value in reversed(values) if math.isfinite(value)), 0.0)


def drawable(series: Series | None) -> TypeGuard[Series]:
    """Whether there is a finite value to draw."""
    return series is not None and any(map(math.isfinite, series.values))
