"""Pictures of runs: one run at a glance, and pass@k of several runs beside each other.

Draws with matplotlib alone, on no screen; ``verl_ext.run_log`` reads the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext import run_log
from verl_ext.run_log import RunLog, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too; yellow left out: too pale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
MARKERS = "osD^vPX"
FAINT = "#888888"
# Heading, where verl keeps the quantity, unit.
PANELS = (
    ("Reward in training", run_log.REWARD, "mean of a step's responses"),
    ("Entropy of the policy", run_log.ENTROPY, "nats per token"),
    ("Response length", run_log.RESPONSE_LENGTH, "tokens, mean"),
)
PASS_AT_K_HINT = (
    "verl_ext/val/<data source>/pass@<k> (logged under trainer.v1.trainer_mode=verl_ext.sync "
    "where outcomes are 0 or 1)"
)
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#BBBBBB",
    "axes.labelcolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 3.0,  # long enough to show a dash
    "lines.linewidth": 2.0,
}


def draw_run(log: RunLog, out: Path, title: str | None = None) -> list[str]:
    """Draws reward, validation, entropy and response length of one run over its steps.

    More than 40 steps are drawn as they are, faintly, and as a running mean; the figures beside a
    heading are the two ends of the bold line.

    Args:
        log: of the run.
        out: the PNG to write.
        title: of the picture; the run's name by default.

    Returns:
        What could not be drawn because the run did not log it, one sentence each.

    Raises:
        RunLogError: the run logged none of the four.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    validations = log.pass_at_k()
    missing = [
        f"{heading}: no {' or '.join(keys)} in {log.path}"
        for heading, keys, _ in PANELS
        if not log.series(keys)
    ]
    if not validations:
        missing.append(f"Validation: no {PASS_AT_K_HINT} in {log.path}")
    if len(missing) > len(PANELS):
        raise run_log.RunLogError(f"nothing to draw: {'; '.join(missing)}")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11 if len(validations) <= 2 else 14, 7.4), layout="constrained")
        reward, validation, *others = figure.subplots(2, 2).flat
        _draw_validations(validation, validations)
        for index, axes in enumerate((reward, *others)):
            heading, keys, unit = PANELS[index]
            _draw_curve(axes, heading, log.series(keys), unit, COLOURS[(0, 2, 3)[index]])
        _finish(figure, title or log.name, run_log.summary(log).splitlines()[0].split(": ", 1)[1])
        figure.savefig(out, dpi=150)
    return missing


def draw_comparison(logs: Mapping[str, RunLog], out: Path) -> list[str]:
    """Draws pass@k over k of each run's last validation, and of the untrained model.

    Args:
        logs: label -> run, in the order of the legend.
        out: the PNG to write; one panel a data source.

    Returns:
        What could not be drawn, one sentence each.

    Raises:
        RunLogError: no run logged a pass@k.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    validations = {label: log.pass_at_k() for label, log in logs.items()}
    sources = list(dict.fromkeys(source for found in validations.values() for source in found))
    if not sources:
        raise run_log.RunLogError(f"nothing to draw: no {PASS_AT_K_HINT}")
    missing = []
    columns = min(len(sources), 3)
    rows = ceil(len(sources) / columns)
    with mpl.rc_context(STYLE):
        size = (max(7.2, 5.4 * columns), 0.7 + 4.4 * rows)
        figure = Figure(figsize=size, layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, source in zip(panels, sources, strict=False):
            missing += _draw_pass_curves(axes, source, validations)
        for axes in panels[len(sources) :]:
            axes.set_axis_off()
        _finish(
            figure,
            "pass@k before and after training",
            "at least one of k samples is right; unbiased estimate, last validation of each run",
        )
        figure.savefig(out, dpi=150)
    return missing


def _draw_curve(axes: Axes, heading: str, series: Series, unit: str, colour: str) -> None:
    axes.set_title(heading)
    if not series:
        _draw_nothing(axes)
        return
    steps, values = zip(*series, strict=True)
    crowded = len(steps) > 40
    smooth = _smoothed(values) if crowded else list(values)
    if crowded:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    axes.plot(steps, smooth, color=colour, marker="" if crowded else "o", markersize=3.5)
    axes.set_title(_before_after(smooth), loc="right", color=colour)
    axes.set_ylabel(unit)
    _step_axis(axes)


def _draw_validations(axes: Axes, validations: Mapping[str, dict[int, dict[int, float]]]) -> None:
    axes.set_title("Validation")
    if not validations:
        _draw_nothing(axes)
        return
    for index, (source, by_step) in enumerate(validations.items()):
        for k, line in _first_and_last_k(by_step):
            series = [(step, by_step[step][k]) for step in sorted(by_step) if k in by_step[step]]
            steps, values = zip(*series, strict=True)
            axes.plot(
                steps,
                values,
                line,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4.5,
                label=f"{source} pass@{k}  {_before_after(values)}",
            )
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share of prompts solved")
    _step_axis(axes)
    if len(validations) <= 2:
        axes.legend(loc="best")
    else:  # too many for the panel
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _first_and_last_k(by_step: Mapping[int, dict[int, float]]) -> list[tuple[int, str]]:
    largest = max(max(curve) for curve in by_step.values())
    return [(1, "-")] if largest == 1 else [(1, "-"), (largest, "--")]


def _draw_pass_curves(axes: Axes, source: str, validations: Mapping[str, Any]) -> list[str]:
    missing = []
    axes.set_title(source)
    ks: set[int] = set()
    untrained = [found[source][0] for found in validations.values() if 0 in found.get(source, {})]
    if untrained:
        _plot_over_k(axes, untrained, ":", color=FAINT, marker=".", label="untrained")
        ks.update(*untrained)
    else:
        missing.append(f"{source}: no run validated before training (trainer.val_before_train)")
    for index, (label, found) in enumerate(validations.items()):
        if source not in found or max(found[source]) == 0:
            missing.append(f"{source}: run '{label}' has no validation after training")
            continue
        curve = found[source][max(found[source])]
        ks.update(curve)
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        _plot_over_k(axes, [curve], "-", markersize=4.5, label=label, **style)
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(max(ks).bit_length())]
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("k, samples drawn")
    axes.set_ylabel("pass@k")
    axes.set_ylim(-0.03, 1.03)
    axes.legend(loc="best")
    return missing


def _plot_over_k(
    axes: Axes, curves: Sequence[Mapping[int, float]], line: str, **style: Any
) -> None:
    """Draws the mean of the curves: runs from one model differ before training by chance alone."""
    ks = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [sum(curve[k] for curve in curves) / len(curves) for k in ks]
    powers = [index for index, k in enumerate(ks) if k & (k - 1) == 0]
    axes.plot(ks, means, line, markevery=powers, **style)


def _before_after(values: Sequence[float]) -> str:
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return "NaN"
    ends = [finite[0], finite[-1]]
    digits = 1 if max(ends) >= 10 else 2
    return " → ".join(f"{value:.{digits}f}" for value in ends)


def _draw_nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=FAINT)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)


def _step_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(y=0.15)


def _smoothed(values: Sequence[float]) -> list[float]:
    """A running mean over about a twentieth of the run, shorter at its ends, without NaN."""
    reach = max(1, len(values) // 40)
    means = []
    for i in range(len(values)):
        window = [v for v in values[max(0, i - reach) : i + reach + 1] if isfinite(v)]
        means.append(sum(window) / len(window) if window else nan)
    return means


def _finish(figure: Figure, title: str, subtitle: str) -> None:
    inch = 1 / figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.75 * inch))  # room for the two lines
    figure.text(0.012, 1 - 0.1 * inch, title, fontsize=15, weight="bold", va="top")
    figure.text(0.0125, 1 - 0.42 * inch, subtitle, color=FAINT, va="top")
