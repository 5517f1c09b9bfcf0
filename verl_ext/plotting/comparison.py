"""pass@k of several runs side by side."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from verl_ext.plotting.panels import (
    COLOURS,
    DPI,
    GREY,
    STYLE,
    check_labels,
    end_labels,
    grid,
    headline,
    last_finite,
)
from verl_ext.run_log import RunLog


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
def comparison_figure(logs: Sequence[RunLog], labels: Sequence[str]) -> Figure:
    """The figure that :func:`draw_comparison` writes: a panel for each data source."""
    check_labels(logs, labels)
    sources = sorted({name for log in logs for name in log.data_sources if log.pass_at_k(name)})
    if not sources:
        raise ValueError(
            "no run measured pass@k: it needs trainer.v1.trainer_mode=verl_ext.sync and "
            "actor_rollout_ref.rollout.val_kwargs.n above 1"
        )
    figure, panels = grid(len(sources))
    for axes, source in zip(panels, sources, strict=True):
        _comparison_panel(axes, source, logs, labels)
    curves = [curve for log in logs for name in sources for curve in log.pass_at_k(name).values()]
    steps = sorted({curve.steps[-1] for curve in curves})
    largest = max(max(log.pass_at_k(name), default=1) for log in logs for name in sources)
    headline(
        figure,
        f"pass@k for k = 1 … {largest}",
        f"after {' / '.join(map(str, steps))} steps of training",
    )
    return figure


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
        marks.append((last_finite(values), f"{label}  {values[0]:.2f} … {values[-1]:.2f}", colour))
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
    end_labels(axes, marks)
