"""The courses of several runs side by side, over the training step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verl_ext.plotting.entropy import (
    BATCH_ENTROPY,
    TITLE,
    UNIT,
    shade_band,
    threshold_marks,
    thresholds,
)
from verl_ext.plotting.panels import (
    COLOURS,
    DPI,
    ENTROPY,
    STYLE,
    TEACHING,
    TRAINING,
    check_labels,
    drawable,
    end_labels,
    grid,
    headline,
    share_axis,
    short,
    step_axis,
)
from verl_ext.run_log import REWARD, RunLog, Series

# Width and dashes of each run's line. Each is thinner than the one below it, so that of curves
# that overlap all are seen; 4 pens and 6 colours make 12 different lines.
PENS = (
    (2.5, "-"),
    (1.6, "--"),
    (1.4, "-."),
    (1.2, ":"),
)
WIDTH = 5.4  # of a panel in inches: next to it is the name of each run
FEW_POINTS = 20  # up to here they are marked: it is said where a value was measured


@dataclass(frozen=True)
class _Panel:
    title: str
    unit: str
    lines: tuple[tuple[str, Series] | None, ...]  # name and course; None: the run did not log it
    share: bool = False
    band: tuple[float, float] | None = None  # AEPO's low and high threshold, in nats


@matplotlib.rc_context(STYLE)
def draw_curves(logs: Sequence[RunLog], labels: Sequence[str], path: str | Path) -> None:
    """Writes a PNG with the courses of several runs; says on stdout which run lacks what.

    Args:
        logs: of the runs.
        labels: name of each run.
        path: where to write.

    Raises:
        ValueError: no runs, not one label per run, or no run logged any of the metrics.
    """
    curves_figure(logs, labels).savefig(path, format="png", dpi=DPI)


@matplotlib.rc_context(STYLE)
def curves_figure(logs: Sequence[RunLog], labels: Sequence[str]) -> Figure:
    """The figure that :func:`draw_curves` writes: a panel for each metric, data source, task."""
    check_labels(logs, labels)
    sources = sorted({source for log in logs for source in log.data_sources})
    tasks = sorted({task for log in logs for task in log.by_task("reward")})
    taught = [m for m in TEACHING if any(drawable(log.series.get(m)) for log in logs)]
    training = {metric: _training(logs, labels, metric) for metric in (*TRAINING, *taught)}
    training[ENTROPY] = _entropy(logs, labels, training[ENTROPY])
    validation = {f"validation of {name}": _validation(logs, labels, name) for name in sources}
    rewards = {f"reward of {task}": _task_reward(logs, labels, task) for task in tasks}
    # In reading order.
    candidates = {REWARD: training[REWARD], **validation, **training, **rewards}
    panels = {name: panel for name, panel in candidates.items() if any(panel.lines)}
    if not panels:
        raise ValueError(f"nothing to draw: no run logged {', '.join(TRAINING)} or a validation")
    _say_what_is_missing(candidates, labels, validated=bool(sources))
    figure, all_axes = grid(len(panels), width=WIDTH)
    for axes, panel in zip(all_axes, panels.values(), strict=True):
        _draw(axes, panel)
        step_axis(axes, max(log.last_step for log in logs))
    steps = " / ".join(map(str, sorted({log.last_step for log in logs})))
    headline(figure, f"{len(logs)} runs", f"{steps} steps")
    return figure


def _training(logs: Sequence[RunLog], labels: Sequence[str], metric: str) -> _Panel:
    title, unit = (TRAINING | TEACHING)[metric]
    return _Panel(title, unit, _lines(labels, [log.series.get(metric) for log in logs]))


def _task_reward(logs: Sequence[RunLog], labels: Sequence[str], task: str) -> _Panel:
    found = [log.by_task("reward").get(task) for log in logs]
    return _Panel(f"training reward: {task}", TRAINING[REWARD][1], _lines(labels, found))


def _entropy(logs: Sequence[RunLog], labels: Sequence[str], fallback: _Panel) -> _Panel:
    """Of the batch where all runs logged it: thresholds are meant for it; else verl's own."""
    of_batch = _lines(labels, [log.series.get(BATCH_ENTROPY) for log in logs])
    panel = _Panel(TITLE, UNIT, of_batch) if all(of_batch) else fallback
    bands = {band for band in map(thresholds, logs) if band}
    if len(bands) > 1:
        print(f"{len(bands)} different pairs of thresholds: none drawn with the entropy")
    if len(bands) != 1:
        return panel
    if not all(of_batch):
        print(f"not every run logged {BATCH_ENTROPY}: its thresholds are drawn with {ENTROPY}")
        panel = replace(panel, unit=f"{panel.unit} (AEPO: {TITLE})")
    return replace(panel, band=bands.pop())


def _lines(
    labels: Sequence[str], found: Sequence[Series | None]
) -> tuple[tuple[str, Series] | None, ...]:
    return tuple(
        (label, series) if drawable(series) else None
        for label, series in zip(labels, found, strict=True)
    )


def _validation(logs: Sequence[RunLog], labels: Sequence[str], source: str) -> _Panel:
    # Of each run the first of its curves: pass@1, or verl's mean where pass@k was not measured.
    found = [next(iter(log.validation(source).items()), None) for log in logs]
    measured = [pair if pair and drawable(pair[1]) else None for pair in found]
    measures = list(dict.fromkeys(pair[0] for pair in measured if pair))
    lines = []
    for label, pair in zip(labels, measured, strict=True):
        # Runs that were not measured alike are not to be taken for it.
        name = f"{label} ({pair[0]})" if pair and len(measures) > 1 else label
        lines.append((name, pair[1]) if pair else None)
    return _Panel(f"validation: {source}", " / ".join(measures), tuple(lines), share=True)


def _say_what_is_missing(
    candidates: dict[str, _Panel], labels: Sequence[str], *, validated: bool
) -> None:
    nowhere = [name for name, panel in candidates.items() if not any(panel.lines)]
    nowhere += [] if validated else ["validation (pass@k)"]
    if nowhere:
        print(f"in none of the runs, left out of the picture: {', '.join(nowhere)}")
    for name, panel in candidates.items():
        for label, line in zip(labels, panel.lines, strict=True):
            if line is None and name not in nowhere:
                print(f"{label}: no {name}, left out")


def _draw(axes: Axes, panel: _Panel) -> None:
    marks = threshold_marks(panel.band)
    last = max(_end(line[1])[0] for line in panel.lines if line)
    for index, line in enumerate(panel.lines):
        if line is None:
            continue
        name, series = line
        colour = COLOURS[index % len(COLOURS)]
        level = index % len(PENS)
        width, dashes = PENS[level]
        axes.plot(
            series.steps,
            series.values,
            clip_on=False,  # else half of a line at 0 or 1, and of a mark at step 0, is cut off
            color=colour,
            label=name,
            linestyle=dashes,
            linewidth=width,
            marker="o" if len(series.steps) <= FEW_POINTS else "",
            zorder=2 + level / len(PENS),  # the fifth run's wide line goes under the thin ones
        )
        step, value = _end(series)
        earlier = f" at step {step}" if step < last else ""  # the label stands at the right margin
        marks.append((value, f"{name}  {short(value)}{earlier}", colour))
    if panel.band:
        shade_band(axes, panel.band)
    if panel.share:
        share_axis(axes, [line[1] for line in panel.lines if line])
    else:
        axes.margins(y=0.15)
    axes.set_title(panel.title)
    axes.set_ylabel(panel.unit)
    end_labels(axes, marks)


def _end(series: Series) -> tuple[int, float]:
    """The last step with a finite value, and the value."""
    points = zip(series.steps, series.values, strict=True)
    return [(step, value) for step, value in points if math.isfinite(value)][-1]
