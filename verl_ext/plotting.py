"""Pictures of runs: the course of one, and pass@k of several side by side.

Draws on matplotlib figures of its own, so nothing global changes and no display is needed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from verl_ext.run_log import REWARD, RunLog, Series

# Okabe and Ito's colours, told apart by every kind of colour vision; their yellow is too pale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#6B7280"
TRAINING = {  # metric -> title and unit of its panel
    REWARD: ("training reward", "mean over responses"),
    "actor/entropy": ("entropy", "nats per token"),
    "response_length/mean": ("response length", "tokens"),
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


@matplotlib.rc_context(STYLE)
def draw_run(log: RunLog, path: str | Path, title: str) -> None:
    """Writes a PNG with the course of one run; says on stdout which metrics it lacks.

    Args:
        log: of the run.
        path: where to write.
        title: name of the run.

    Raises:
        ValueError: the run logged none of the metrics.
    """
    run_figure(log, title).savefig(path, format="png", dpi=DPI)


@matplotlib.rc_context(STYLE)
def draw_comparison(logs: Sequence[RunLog], labels: Sequence[str], path: str | Path) -> None:
    """Writes a PNG with pass@k of the last validation of each run, and before training.

    Args:
        logs: of the runs; the untrained model is step 0 of the first.
        labels: name of each run.
        path: where to write.

    Raises:
        ValueError: no runs, not one label per run, or no run measured pass@k.
    """
    comparison_figure(logs, labels).savefig(path, format="png", dpi=DPI)


@matplotlib.rc_context(STYLE)
def run_figure(log: RunLog, title: str) -> Figure:
    """The figure that :func:`draw_run` writes: reward, validation, entropy, response length."""
    present = [metric for metric in TRAINING if _drawable(log.series.get(metric))]
    missing = [metric for metric in TRAINING if metric not in present]
    sources = log.data_sources
    if not present and not sources:
        raise ValueError(f"nothing to draw in {log.path}: none of {', '.join(TRAINING)}, no pass@k")
    missing += [] if sources else ["validation (pass@k)"]
    if missing:
        print(f"not in {log.path}, left out of the picture: {', '.join(missing)}")
    figure, panels = _grid(len(present) + len(sources))
    order: list[str] = [*present[:1], *sources, *present[1:]]
    for axes, name in zip(panels, order, strict=True):
        if name in sources:
            _validation_panel(axes, name, log.validation(name))
        else:
            _training_panel(axes, name, log.series[name])
        axes.set_xlim(0, max(log.last_step, 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _headline(figure, title, f"{log.last_step} steps")
    return figure


@matplotlib.rc_context(STYLE)
def comparison_figure(logs: Sequence[RunLog], labels: Sequence[str]) -> Figure:
    """The figure that :func:`draw_comparison` writes: a panel for each data source."""
    if not logs or len(logs) != len(labels):
        raise ValueError(f"{len(logs)} runs and {len(labels)} labels: give one label for each run")
    sources = sorted({name for log in logs for name in log.data_sources if log.pass_at_k(name)})
    if not sources:
        raise ValueError(
            "no run measured pass@k: it needs trainer.v1.trainer_mode=verl_ext.sync and "
            "actor_rollout_ref.rollout.val_kwargs.n above 1"
        )
    figure, panels = _grid(len(sources))
    for axes, source in zip(panels, sources, strict=True):
        _comparison_panel(axes, source, logs, labels)
    curves = [curve for log in logs for name in sources for curve in log.pass_at_k(name).values()]
    steps = sorted({curve.steps[-1] for curve in curves})
    largest = max(max(log.pass_at_k(name), default=1) for log in logs for name in sources)
    _headline(
        figure,
        f"pass@k for k = 1 … {largest}",
        f"after {' / '.join(map(str, steps))} steps of training",
    )
    return figure


def _validation_panel(axes: Axes, source: str, curves: dict[str, Series]) -> None:
    shades = matplotlib.colormaps["viridis"]
    marks = []
    for index, (label, series) in enumerate(curves.items()):
        colour = shades(0.75 * index / max(len(curves) - 1, 1))
        axes.plot(series.steps, series.values, color=colour, marker="o", clip_on=False, label=label)
        marks.append((_last_finite(series.values), f"{label}  {_before_after(series)}", colour))
    if all(not (value < 0 or value > 1) for curve in curves.values() for value in curve.values):
        axes.set_ylim(0, 1)  # else a mean reward, which may lie anywhere
    axes.set_title(f"validation: {source}")
    axes.set_xlabel("training step")
    axes.set_ylabel("share solved" if "pass@1" in curves else "")
    _end_labels(axes, marks)


def _training_panel(axes: Axes, metric: str, series: Series) -> None:
    title, unit = TRAINING[metric]
    colour = COLOURS[list(TRAINING).index(metric)]
    axes.plot(series.steps, series.values, color=colour, label=metric)
    axes.set_title(title)
    axes.set_title(_before_after(series), loc="right", color=colour)
    axes.set_xlabel("training step")
    axes.set_ylabel(unit)
    axes.margins(y=0.15)


def _comparison_panel(
    axes: Axes, source: str, logs: Sequence[RunLog], labels: Sequence[str]
) -> None:
    lines = [(label, log.pass_at_k(source), -1) for log, label in zip(logs, labels, strict=True)]
    first = logs[0].pass_at_k(source)
    if any(series.steps[0] == 0 for series in first.values()):
        lines.append(("untrained", first, 0))
    else:
        print(f"{logs[0].path}: no validation of {source} before training (step 0), left out")
    marks, largest = [], 1
    for index, (label, curves, when) in enumerate(lines):
        if not curves:
            print(f"{label}: no pass@k of {source}, left out")
            continue
        untrained = when == 0
        colour = GREY if untrained else COLOURS[index % len(COLOURS)]
        values = [series.values[when] for series in curves.values()]
        dashes = "--" if untrained else "-"
        axes.plot(list(curves), values, color=colour, linestyle=dashes, label=label)
        marks.append((_last_finite(values), f"{label}  {values[0]:.2f} … {values[-1]:.2f}", colour))
        largest = max(largest, *curves)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, max(largest, 2))
    axes.xaxis.set_major_locator(FixedLocator([2**i for i in range(largest.bit_length())]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
    axes.set_ylim(0, 1)
    axes.set_title(source)
    axes.set_xlabel("k, samples per problem")
    axes.set_ylabel("pass@k")
    _end_labels(axes, marks)


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    columns = 1 if count == 1 else 2 if count <= 4 else 3 if count <= 9 else 4
    rows = math.ceil(count / columns)
    size = (PANEL[0] * columns + 0.6, PANEL[1] * rows + 0.5)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def _headline(figure: Figure, title: str, rest: str) -> None:
    figure.suptitle(f"{title}  ·  {rest}", fontsize=13, x=0.012, ha="left")


def _end_labels(axes: Axes, marks: list[tuple[float, str, Any]]) -> None:
    """Writes each line's label right of its end, moved apart where they would overlap."""
    ordered = sorted(marks, key=lambda mark: mark[0])
    low, high = axes.get_ylim()
    heights = _spread([(value - low) / (high - low) for value, _, _ in ordered])
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


def _spread(values: Sequence[float]) -> list[float]:
    """The heights nearest to ascending ``values`` that keep LINE_HEIGHT between neighbours."""
    # In v_i - i·LINE_HEIGHT "far enough apart" is "not descending": pool neighbours that descend.
    pools: list[list[float]] = []
    for index, value in enumerate(values):
        pools.append([value - index * LINE_HEIGHT])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    return [level + index * LINE_HEIGHT for index, level in enumerate(levels)]


def _before_after(series: Series) -> str:
    finite = [value for value in series.values if math.isfinite(value)]
    return f"{finite[0]:.2f} → {finite[-1]:.2f}" if finite else "not a number"


def _last_finite(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if math.isfinite(value)), 0.0)


def _drawable(series: Series | None) -> bool:
    return series is not None and any(map(math.isfinite, series.values))
