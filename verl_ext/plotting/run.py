"""The course of one run."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verl_ext.plotting.entropy import BATCH_ENTROPY, entropy_panel, mark_skipped
from verl_ext.plotting.panels import (
    COLOURS,
    DPI,
    ENTROPY,
    STYLE,
    TEACHING,
    TRAINING,
    before_after,
    drawable,
    end_labels,
    grid,
    headline,
    last_finite,
    share_axis,
    step_axis,
)
from verl_ext.plotting.tasks import SHARE, share_panel, task_colours
from verl_ext.run_log import REWARD, RunLog, Series

SHARES = "share of the advantage, by task"


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
def run_figure(log: RunLog, title: str) -> Figure:
    """The figure that :func:`draw_run` writes.

    Reward, validation, entropy and response length; under AEPO the entropy of the batch with its
    thresholds, with a teacher how far it is, and where the trainer knows tasks, their shares of the
    advantage.
    """
    present = _present(log)
    missing = [metric for metric in TRAINING if metric not in present]
    sources = log.data_sources
    if not present and not sources:
        raise ValueError(f"nothing to draw in {log.path}: none of {', '.join(TRAINING)}, no pass@k")
    missing += [] if sources else ["validation (pass@k)"]
    if missing:
        print(f"not in {log.path}, left out of the picture: {', '.join(missing)}")
    tasks = log.by_task(SHARE)
    figure, panels = grid(len(present) + len(sources) + bool(tasks))
    order: list[str] = [*present[:1], *sources, *present[1:]]
    for axes, name in zip(panels, order, strict=False):
        if name in sources:
            _validation_panel(axes, name, log.validation(name))
        else:
            _training_panel(axes, name, log)
        step_axis(axes, log.last_step)
    if tasks:
        share_panel(panels[-1], log, task_colours(tasks), log.last_step)
        panels[-1].set_title(SHARES)
    headline(figure, title, f"{log.last_step} steps")
    return figure


def _present(log: RunLog) -> list[str]:
    """The metrics that have a panel: AEPO's entropy of the batch stands in for verl's."""
    stand_ins = {ENTROPY: BATCH_ENTROPY}
    return [
        metric
        for metric in (*TRAINING, *TEACHING)
        if drawable(log.series.get(metric)) or drawable(log.series.get(stand_ins.get(metric, "")))
    ]


def _validation_panel(axes: Axes, source: str, curves: dict[str, Series]) -> None:
    shades = matplotlib.colormaps["viridis"]
    marks = []
    for index, (label, series) in enumerate(curves.items()):
        colour = shades(0.75 * index / max(len(curves) - 1, 1))
        axes.plot(series.steps, series.values, color=colour, marker="o", clip_on=False, label=label)
        marks.append((last_finite(series.values), f"{label}  {before_after(series)}", colour))
    share_axis(axes, curves.values())
    axes.set_title(f"validation: {source}")
    axes.set_ylabel("share solved" if "pass@1" in curves else "")
    end_labels(axes, marks)


def _training_panel(axes: Axes, metric: str, log: RunLog) -> None:
    gated = drawable(log.series.get(BATCH_ENTROPY))
    if metric == ENTROPY and gated:
        entropy_panel(axes, log)
        return
    known = TRAINING | TEACHING
    title, unit = known[metric]
    series = log.series[metric]
    colour = COLOURS[list(known).index(metric)]
    axes.plot(series.steps, series.values, color=colour, label=metric)
    axes.set_title(title)
    axes.set_title(before_after(series), loc="right", color=colour)
    axes.set_ylabel(unit)
    axes.margins(y=0.15)
    if metric == REWARD and not gated:
        end_labels(axes, mark_skipped(axes, log))
