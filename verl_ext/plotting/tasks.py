"""Which task the gradient listens to: the share of the advantage of each, over the steps."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from verl_ext.plotting.panels import COLOURS, DPI, STYLE, check_labels, end_labels, grid, headline
from verl_ext.run_log import RunLog

SHARE = "advantage_share"
DARKER = 0.6  # of a colour's brightness is left each time the colours start again
WIDTH = 3.7  # of a panel in inches
ALONE = 5.4  # of the only one: the heading needs it
FEW_STEPS = 30  # up to here white lines part the tasks; on narrower columns they would be noise
SIDE_BY_SIDE = 3  # so many runs are put in one row


@matplotlib.rc_context(STYLE)
def draw_tasks(logs: Sequence[RunLog], labels: Sequence[str], path: str | Path) -> None:
    """Writes a PNG with a panel for each run: the share of the advantage of each task.

    Args:
        logs: of the runs, one or several.
        labels: name of each run.
        path: where to write.

    Raises:
        ValueError: no runs, not one label per run, or a run that did not log its tasks.
    """
    tasks_figure(logs, labels).savefig(path, format="png", dpi=DPI)


@matplotlib.rc_context(STYLE)
def tasks_figure(logs: Sequence[RunLog], labels: Sequence[str]) -> Figure:
    """The figure that :func:`draw_tasks` writes; a task has one colour in all panels."""
    check_labels(logs, labels)
    for log, label in zip(logs, labels, strict=True):
        if not log.by_task(SHARE):
            raise ValueError(
                f"{label} did not log its tasks ({log.path}): it takes "
                "+algorithm.verl_ext.task_key=data_source with a verl_ext.* trainer "
                "(trainer.v1.trainer_mode=verl_ext.sync)"
            )
    colours = task_colours(task for log in logs for task in log.by_task(SHARE))
    last_step = max(log.last_step for log in logs)
    in_a_row = len(logs) if len(logs) <= SIDE_BY_SIDE else None
    width = WIDTH if len(logs) > 1 else ALONE
    figure, panels = grid(len(logs), width=width, columns=in_a_row)
    for axes, log, label in zip(panels, logs, labels, strict=True):
        share_panel(axes, log, colours, last_step)
        axes.set_title(label)
        spec = axes.get_subplotspec()
        if spec and not spec.is_first_col():  # the scale of all panels stands left of the first
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
    headline(figure, "Share of the advantage, by task", "mean at the right")
    return figure


def task_colours(tasks: Iterable[str]) -> dict[str, str]:
    """A colour for each task, given by the order of the names, darker when they run out."""
    colours = {}
    for index, task in enumerate(sorted(set(tasks))):
        again, place = divmod(index, len(COLOURS))
        red, green, blue = (part * DARKER**again for part in to_rgb(COLOURS[place]))
        colours[task] = to_hex((red, green, blue))
    return colours


def share_panel(axes: Axes, log: RunLog, colours: Mapping[str, str], last_step: int) -> None:
    """Stacks the tasks' shares, a column for each step, and writes their means at the right.

    Args:
        axes: to draw on; the title is the caller's.
        log: of a run that logged its tasks.
        colours: of each task.
        last_step: at which the axis ends, in steps of training.
    """
    steps, shares = _stacked(log)
    edges = [step - 0.5 for step in steps] + [steps[-1] + 0.5]
    means = _means(shares)
    marks, low, mean_low = [], [0.0] * len(steps), 0.0
    # From the top down in the alphabet, as a table would have them.
    for task in reversed(list(shares)):
        high = [below + share for below, share in zip(low, shares[task], strict=True)]
        axes.stairs(
            high,
            edges,
            baseline=low,
            fill=True,
            facecolor=colours[task],
            edgecolor="white",
            linewidth=0.6 if len(steps) <= FEW_STEPS else 0,
            label=task,
        )
        text = f"{task}  {means[task]:.0%}"
        marks.append((mean_low + means[task] / 2, text, colours[task]))
        low, mean_low = high, mean_low + means[task]
    axes.grid(False)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("of the summed |advantage|")
    axes.set_xlim(0.5, max(last_step, 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("training step")
    end_labels(axes, marks)


def _stacked(log: RunLog) -> tuple[list[int], dict[str, list[float]]]:
    """The steps, and of each task its share at each: 0 where the batch had none of it."""
    found = {
        task: dict(zip(s.steps, s.values, strict=True)) for task, s in log.by_task(SHARE).items()
    }
    steps = sorted({step for by_step in found.values() for step in by_step})
    return steps, {
        task: [by_step.get(step, 0.0) for step in steps] for task, by_step in found.items()
    }


def _means(shares: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each task, over the steps that had an advantage at all; they sum to 1, or are all 0."""
    columns = [column for column in zip(*shares.values(), strict=True) if sum(column) > 0]
    rows = zip(*columns, strict=True) if columns else [[0.0]] * len(shares)
    return {task: fmean(row) for task, row in zip(shares, rows, strict=True)}
