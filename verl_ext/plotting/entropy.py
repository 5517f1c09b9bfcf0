"""The entropy of a run under AEPO: its thresholds, when it masked, what it left nothing of."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from verl_ext.plotting.panels import COLOURS, GREY, before_after, drawable, end_labels, last_finite
from verl_ext.run_log import RunLog, Series

BATCH_ENTROPY = "verl_ext/aepo/batch_entropy"
GATE_ON = "verl_ext/aepo/gate_on"
LOW = "verl_ext/aepo/low"  # with HIGH, absent while the thresholds are still measured
HIGH = "verl_ext/aepo/high"
SKIPPED = "verl_ext/skipped_update"
TITLE, UNIT = "batch entropy", "nats per token"
LINE = COLOURS[1]  # as in the panel of verl's own entropy
BAND = "#EEF0F3"
SHADE = "#FBE9C6"
SHADE_TEXT = "#9A6700"  # the shade itself is too pale to read
SKIP = "#B91C1C"


def entropy_panel(axes: Axes, log: RunLog) -> None:
    """Draws the batch entropy with the thresholds, and shades the steps that masked.

    Args:
        axes: to draw on; its x axis is the caller's.
        log: of a run that logged the batch entropy.
    """
    entropy = log.series[BATCH_ENTROPY]
    axes.plot(entropy.steps, entropy.values, color=LINE, label=BATCH_ENTROPY)
    for name in (LOW, HIGH):
        if name in log.series:
            x, y = _level(log.series[name])
            axes.plot(x, y, color=GREY, label=name, linestyle="--", linewidth=1, zorder=1.9)
    axes.set_title(TITLE)
    axes.set_title(before_after(entropy), loc="right", color=LINE)
    axes.set_ylabel(UNIT)
    axes.margins(y=0.15)
    marks = threshold_marks(thresholds(log))
    if GATE_ON in log.series:
        on = _steps_at_one(log.series[GATE_ON])
        for first, last in _runs(on):
            axes.axvspan(first - 0.5, last + 0.5, color=SHADE, linewidth=0, zorder=0)
        text = f"gate on: {len(on)} of {len(entropy.steps)} steps"
        marks.append((axes.get_ylim()[1], text, SHADE_TEXT))
    end_labels(axes, marks + mark_skipped(axes, log))


def thresholds(log: RunLog) -> tuple[float, float] | None:
    """The low and the high threshold in nats that the run ended with; None where not known."""
    found = [log.series.get(name) for name in (LOW, HIGH)]
    values = [last_finite(series.values) for series in found if drawable(series)]
    return (values[0], values[1]) if len(values) == 2 else None


def threshold_marks(band: tuple[float, float] | None) -> list[tuple[float, str, Any]]:
    """The labels of both thresholds at the right margin, or of the one that they are."""
    if band is None:
        return []
    low, high = band
    if low == high:
        return [(low, f"AEPO low = high  {low:.3g}", GREY)]
    return [(low, f"AEPO low  {low:.3g}", GREY), (high, f"AEPO high  {high:.3g}", GREY)]


def shade_band(axes: Axes, band: tuple[float, float]) -> None:
    """Shades what lies between two thresholds; a single one is seen as a line."""
    axes.axhspan(*band, facecolor=BAND, edgecolor=GREY, linestyle="--", linewidth=0.8, zorder=1)


def mark_skipped(axes: Axes, log: RunLog) -> list[tuple[float, str, Any]]:
    """Puts a cross on the x axis at each step without an update; returns the label for them."""
    skipped = _steps_at_one(log.series[SKIPPED]) if SKIPPED in log.series else []
    if not skipped:
        return []
    axes.plot(
        skipped,
        [0] * len(skipped),
        clip_on=False,
        color=SKIP,
        label=SKIPPED,
        linestyle="",
        marker="x",
        markeredgewidth=1.6,
        markersize=5,
        transform=axes.get_xaxis_transform(),
        zorder=4,
    )
    plural = "s" if len(skipped) > 1 else ""
    return [(axes.get_ylim()[0], f"✕ {len(skipped)} update{plural} skipped", SKIP)]


def _level(series: Series) -> tuple[list[float], list[float]]:
    """Corners of a line that is level over each step, so that one step alone is seen."""
    x = [step + half for step in series.steps for half in (-0.5, 0.5)]
    return x, [value for value in series.values for _ in range(2)]


def _steps_at_one(series: Series) -> list[int]:
    pairs = zip(series.steps, series.values, strict=True)
    return [step for step, value in pairs if math.isfinite(value) and value > 0]


def _runs(steps: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of steps that follow one another."""
    stretches: list[tuple[int, int]] = []
    for step in steps:
        if stretches and step == stretches[-1][1] + 1:
            stretches[-1] = (stretches[-1][0], step)
        else:
            stretches.append((step, step))
    return stretches
