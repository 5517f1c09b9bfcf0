"""The picture of AEPO: the batch's entropy, its thresholds, when the gate was on."""

import pytest

pytest.importorskip("matplotlib")

from unit.figures import STEPS, TRAINING, lines, log_of, panels, texts

from verl_ext import plotting
from verl_ext.run_log import Series

GATED = {
    "verl_ext/aepo/batch_entropy": Series(STEPS, (0.5, 0.875, 0.75, 0.25)),
    "verl_ext/aepo/low": Series((2, 3, 4), (0.375, 0.375, 0.375)),  # calibrating at step 1
    "verl_ext/aepo/high": Series((2, 3, 4), (0.8125, 0.8125, 0.8125)),
    "verl_ext/aepo/gate_on": Series(STEPS, (0.0, 1.0, 1.0, 0.0)),
    "verl_ext/skipped_update": Series(STEPS, (0.0, 0.0, 1.0, 0.0)),
}
ENTROPY = "verl_ext/aepo/batch_entropy"


def spans(axes):
    """The shaded rectangles, as (left, right) in steps."""
    boxes = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    return [(round(box.x0, 6), round(box.x1, 6)) for box in boxes]


def test_under_aepo_the_entropy_is_that_of_the_batch_with_its_thresholds():
    axes = panels(plotting.run_figure(log_of(TRAINING, GATED), "a run"))
    assert list(axes) == ["training reward", "batch entropy", "response length"]
    drawn = lines(axes["batch entropy"])
    assert drawn[ENTROPY] == (STEPS, GATED[ENTROPY].values)
    level = (1.5, 2.5, 2.5, 3.5, 3.5, 4.5)  # steps 2 to 4; at step 1 there was none
    assert drawn["verl_ext/aepo/low"] == (level, (0.375,) * 6)
    assert drawn["verl_ext/aepo/high"] == (level, (0.8125,) * 6)
    dashes = {line.get_label(): line.get_linestyle() for line in axes["batch entropy"].lines}
    assert dashes["verl_ext/aepo/low"] == dashes["verl_ext/aepo/high"] == "--" != dashes[ENTROPY]
    assert axes["batch entropy"].get_title(loc="right") == "0.50 → 0.25"
    assert {"AEPO low  0.375", "AEPO high  0.812"} <= set(texts(axes["batch entropy"]))


def test_the_steps_with_the_gate_on_are_shaded_and_counted():
    axes = panels(plotting.run_figure(log_of(TRAINING, GATED), "a run"))["batch entropy"]
    assert spans(axes) == [(1.5, 3.5)]
    assert "gate on: 2 of 4 steps" in texts(axes)
    twice = {"verl_ext/aepo/gate_on": Series(STEPS, (1.0, 0.0, 1.0, 1.0))}
    axes = panels(plotting.run_figure(log_of(GATED, twice), "a run"))["batch entropy"]
    assert spans(axes) == [(0.5, 1.5), (2.5, 4.5)]


def test_while_calibrating_there_are_no_thresholds_and_nothing_is_shaded():
    calibrating = {
        ENTROPY: Series(STEPS, (0.5, 0.5, 0.5, 0.5)),
        "verl_ext/aepo/gate_on": Series(STEPS, (0.0,) * 4),
    }
    axes = panels(plotting.run_figure(log_of(calibrating), "a run"))["batch entropy"]
    assert list(lines(axes)) == [ENTROPY]
    assert list(axes.patches) == []
    assert texts(axes) == ["gate on: 0 of 4 steps"]


def test_equal_thresholds_are_one_line_of_text():
    same = {name: Series((4,), (0.5,)) for name in ("verl_ext/aepo/low", "verl_ext/aepo/high")}
    axes = panels(plotting.run_figure(log_of({ENTROPY: GATED[ENTROPY]}, same), "a run"))
    assert texts(axes["batch entropy"]) == ["AEPO low = high  0.5"]
    # Known for one step alone: seen all the same.
    assert lines(axes["batch entropy"])["verl_ext/aepo/low"][0] == (3.5, 4.5)


def test_skipped_updates_are_marked_where_the_gate_is_seen():
    axes = panels(plotting.run_figure(log_of(TRAINING, GATED), "a run"))
    assert lines(axes["batch entropy"])["verl_ext/skipped_update"] == ((3,), (0,))
    assert any("1 update skipped" in text for text in texts(axes["batch entropy"]))
    assert "verl_ext/skipped_update" not in lines(axes["training reward"])


def test_without_aepo_skipped_updates_are_marked_at_the_reward():
    skipped = {"verl_ext/skipped_update": Series(STEPS, (1.0, 0.0, 1.0, 0.0))}
    axes = panels(plotting.run_figure(log_of(TRAINING, skipped), "a run"))
    assert lines(axes["training reward"])["verl_ext/skipped_update"] == ((1, 3), (0, 0))
    assert texts(axes["training reward"]) == ["✕ 2 updates skipped"]
    never = {"verl_ext/skipped_update": Series(STEPS, (0.0,) * 4)}
    axes = panels(plotting.run_figure(log_of(TRAINING, never), "a run"))["training reward"]
    assert list(lines(axes)) == ["critic/rewards/mean"]
    assert texts(axes) == []


def test_marks_do_not_move_the_scale_of_the_entropy():
    figure = plotting.run_figure(log_of(TRAINING, GATED), "a run")
    low, high = panels(figure)["batch entropy"].get_ylim()
    assert 0 < low < 0.25  # the lowest entropy; a cross drawn at 0 would pull it down
    assert 0.875 < high < 1


def entropy_of(*logs, labels=None):
    figure = plotting.curves_figure(list(logs), labels or [str(i) for i in range(len(logs))])
    return next(axes for title, axes in panels(figure).items() if title.endswith("entropy"))


def test_curves_show_the_band_that_one_run_knows(capsys):
    ungated = {ENTROPY: Series(STEPS, (1.0, 1.0, 1.0, 1.0))}
    axes = entropy_of(log_of(TRAINING, GATED), log_of(TRAINING, ungated), labels=["aepo", "grpo"])
    assert axes.get_title(loc="left") == "batch entropy"
    assert list(lines(axes).values()) == [(STEPS, GATED[ENTROPY].values), (STEPS, (1.0,) * 4)]
    (band,) = axes.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == (0.375, 0.8125)
    assert {"AEPO low  0.375", "AEPO high  0.812"} <= set(texts(axes))
    assert "thresholds" not in capsys.readouterr().out


def test_curves_compare_verls_entropy_where_not_every_run_has_the_batchs(capsys):
    axes = entropy_of(log_of(TRAINING, GATED), log_of(TRAINING), labels=["aepo", "grpo"])
    assert axes.get_title(loc="left") == "entropy"
    assert {values for _, values in lines(axes).values()} == {TRAINING["actor/entropy"].values}
    assert len(axes.patches) == 1
    assert axes.get_ylabel() == "nats per token (AEPO: batch entropy)"
    assert f"not every run logged {ENTROPY}" in capsys.readouterr().out


def test_curves_show_no_band_where_runs_differ_in_theirs(capsys):
    other = {"verl_ext/aepo/high": Series((2,), (2.0,))}
    axes = entropy_of(log_of(TRAINING, GATED), log_of(TRAINING, GATED, other))
    assert list(axes.patches) == []
    assert not any("AEPO" in text for text in texts(axes))
    assert "2 different pairs of thresholds" in capsys.readouterr().out
    axes = entropy_of(log_of(TRAINING, GATED), log_of(TRAINING, GATED))
    assert len(axes.patches) == 1  # the same pair twice is one band
