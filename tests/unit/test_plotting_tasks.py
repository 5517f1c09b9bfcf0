"""Pictures of runs of several tasks: shares of the advantage, AEPO's gate, rewards of each."""

import math
import struct
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from verl_ext import plotting
from verl_ext.plotting.panels import COLOURS, spread
from verl_ext.plotting.tasks import task_colours
from verl_ext.run_log import RunLog, Series

STEPS = (1, 2, 3, 4)
TRAINING = {
    "critic/rewards/mean": Series(STEPS, (0.125, 0.25, 0.5, 0.75)),
    "actor/entropy": Series(STEPS, (2.0, 1.5, 1.25, 1.0)),
    "response_length/mean": Series(STEPS, (9.0, 8.0, 7.0, 7.5)),
}
GATED = {
    "verl_ext/aepo/batch_entropy": Series(STEPS, (0.5, 0.875, 0.75, 0.25)),
    "verl_ext/aepo/low": Series((2, 3, 4), (0.375, 0.375, 0.375)),  # calibrating at step 1
    "verl_ext/aepo/high": Series((2, 3, 4), (0.8125, 0.8125, 0.8125)),
    "verl_ext/aepo/gate_on": Series(STEPS, (0.0, 1.0, 1.0, 0.0)),
    "verl_ext/skipped_update": Series(STEPS, (0.0, 0.0, 1.0, 0.0)),
}
ENTROPY = "verl_ext/aepo/batch_entropy"


def of_tasks(what, steps=STEPS, **tasks):
    return {
        f"verl_ext/task/{name.replace('__', '/')}/{what}": Series(steps, values)
        for name, values in tasks.items()
    }


def shares(**tasks):
    return of_tasks("advantage_share", **tasks)


TWO = shares(math=(0.25, 0.5, 0.5, 0.75), openai__gsm8k=(0.75, 0.5, 0.5, 0.25))


def log_of(*parts):
    return RunLog(Path("metrics.jsonl"), {k: v for part in parts for k, v in part.items()})


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def lines(axes):
    return {
        line.get_label(): (tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines
    }


def bands(axes):
    """Task -> the bottoms and the tops of its columns."""
    return {
        patch.get_label(): (tuple(patch.get_data().baseline), tuple(patch.get_data().values))
        for patch in axes.patches
    }


def texts(axes):
    return [text.get_text() for text in axes.texts]


def spans(axes):
    """The shaded rectangles, as (left, right) in steps."""
    boxes = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    return [(round(box.x0, 6), round(box.x1, 6)) for box in boxes]


def test_the_shares_of_a_run_are_stacked_and_add_up_to_one():
    (axes,) = plotting.tasks_figure([log_of(TWO)], ["a run"]).axes
    assert bands(axes) == {
        "openai/gsm8k": ((0.0, 0.0, 0.0, 0.0), (0.75, 0.5, 0.5, 0.25)),
        "math": ((0.75, 0.5, 0.5, 0.25), (1.0, 1.0, 1.0, 1.0)),
    }
    assert axes.get_ylim() == (0, 1)
    for patch in axes.patches:  # a column for each step, its number in the middle
        assert tuple(patch.get_data().edges) == (0.5, 1.5, 2.5, 3.5, 4.5)
    assert axes.get_xlim() == (0.5, 4.5)


def test_the_mean_share_of_each_task_stands_beside_the_middle_of_its_part():
    (axes,) = plotting.tasks_figure([log_of(TWO)], ["a run"]).axes
    assert texts(axes) == ["openai/gsm8k  50%", "math  50%"]
    assert [text.xy for text in axes.texts] == [(1, 0.25), (1, 0.75)]
    assert [text.get_color() for text in axes.texts] == list(
        task_colours(["openai/gsm8k", "math"]).values()
    )[::-1]


def test_a_task_that_a_batch_lacks_has_no_share_of_it():
    log = log_of(
        of_tasks("advantage_share", (1, 2), a=(0.5, 1.0)),
        of_tasks("advantage_share", (1,), b=(0.5,)),
    )
    (axes,) = plotting.tasks_figure([log], ["a run"]).axes
    assert bands(axes) == {"b": ((0.0, 0.0), (0.5, 0.0)), "a": ((0.5, 0.0), (1.0, 1.0))}
    assert texts(axes) == ["b  25%", "a  75%"]  # (1/2 + 0) / 2 and (1/2 + 1) / 2


def test_steps_without_any_advantage_are_blank_and_no_part_of_the_mean():
    log = log_of(shares(a=(0.25, 0.0, 0.75, 0.0), b=(0.75, 0.0, 0.25, 0.0)))
    (axes,) = plotting.tasks_figure([log], ["a run"]).axes
    assert bands(axes)["a"] == ((0.75, 0.0, 0.25, 0.0), (1.0, 0.0, 1.0, 0.0))
    assert texts(axes) == ["b  50%", "a  50%"]
    (axes,) = plotting.tasks_figure([log_of(shares(a=(0.0, 0.0, 0.0, 0.0)))], ["a run"]).axes
    assert texts(axes) == ["a  0%"]


def test_a_single_step_is_seen():
    log = log_of(of_tasks("advantage_share", (3,), a=(0.25,), b=(0.75,)))
    (axes,) = plotting.tasks_figure([log], ["a run"]).axes
    assert tuple(axes.patches[0].get_data().edges) == (2.5, 3.5)


def test_runs_stand_side_by_side_with_one_colour_for_a_task():
    other = shares(openai__gsm8k=(0.5,) * 4, history=(0.5,) * 4)
    longer = of_tasks("advantage_share", (1, 9), math=(1.0, 1.0))
    logs = [log_of(TWO), log_of(other), log_of(longer)]
    figure = plotting.tasks_figure(logs, ["GRPO", "batch std", "task_norm"])
    axes = panels(figure)
    assert list(axes) == ["GRPO", "batch std", "task_norm"]
    assert {panel.get_subplotspec().rowspan.start for panel in figure.axes} == {0}  # one row
    colour = {
        title: {patch.get_label(): patch.get_facecolor() for patch in panel.patches}
        for title, panel in axes.items()
    }
    assert colour["GRPO"]["openai/gsm8k"] == colour["batch std"]["openai/gsm8k"]
    assert colour["GRPO"]["math"] == colour["task_norm"]["math"]
    assert len({colour["GRPO"]["math"], *colour["batch std"].values()}) == 3
    assert {panel.get_xlim() for panel in figure.axes} == {(0.5, 9.5)}  # of the longest run
    assert [panel.get_ylabel() != "" for panel in figure.axes] == [True, False, False]


def test_more_tasks_than_colours_are_still_told_apart():
    names = [f"task {index:02}" for index in range(3 * len(COLOURS))]
    colours = task_colours(names)
    assert list(colours) == names
    assert [colour.upper() for colour in colours.values()][: len(COLOURS)] == list(COLOURS)
    assert len(set(colours.values())) == len(names)


def test_a_run_that_did_not_log_its_tasks_is_refused_with_the_key_to_set():
    with pytest.raises(ValueError, match=r"GRPO.*\+algorithm\.verl_ext\.task_key=data_source"):
        plotting.tasks_figure([log_of(TWO), log_of(TRAINING)], ["task_norm", "GRPO"])
    with pytest.raises(ValueError, match=r"with a verl_ext\.\* trainer"):
        plotting.tasks_figure([log_of(of_tasks("reward", a=(1.0,) * 4))], ["x"])
    with pytest.raises(ValueError, match="one label for each run"):
        plotting.tasks_figure([log_of(TWO)], ["x", "y"])


def test_shares_are_written_as_a_png(tmp_path):
    plotting.draw_tasks([log_of(TWO)] * 3, ["x", "y", "z"], tmp_path / "tasks.png")
    width, height = struct.unpack(">II", (tmp_path / "tasks.png").read_bytes()[16:24])
    assert 2500 > width > 2 * height > 800


def test_the_picture_of_a_run_has_its_shares_last_and_none_where_none_were_logged(capsys):
    figure = plotting.run_figure(log_of(TRAINING, TWO), "a run")
    assert list(panels(figure))[-1] == "share of the advantage, by task"
    assert list(bands(figure.axes[-1])) == ["openai/gsm8k", "math"]
    assert len(plotting.run_figure(log_of(TRAINING), "a run").axes) == len(figure.axes) - 1


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


def test_curves_have_a_panel_for_the_reward_of_each_task(capsys):
    first = of_tasks("reward", openai__gsm8k=(0.0, 0.25, 0.5, 0.5), math=(5.0,) * 4)
    second = of_tasks("reward", openai__gsm8k=(0.25,) * 4)
    logs = [log_of(TRAINING, first), log_of(TRAINING, second)]
    axes = panels(plotting.curves_figure(logs, ["x", "y"]))
    assert list(axes)[-2:] == ["training reward: math", "training reward: openai/gsm8k"]
    assert lines(axes["training reward: math"]) == {"x": (STEPS, (5.0,) * 4)}
    assert lines(axes["training reward: openai/gsm8k"]) == {
        "x": (STEPS, (0.0, 0.25, 0.5, 0.5)),
        "y": (STEPS, (0.25,) * 4),
    }
    assert "y: no reward of math, left out" in capsys.readouterr().out


def test_labels_of_thin_parts_do_not_overlap():
    thin = dict.fromkeys("abcd", (0.01,) * 4)
    (axes,) = plotting.tasks_figure([log_of(shares(z=(0.96,) * 4, **thin))], ["x"]).axes
    heights = [text.xy[1] for text in axes.texts]
    middles = [0.48, 0.965, 0.975, 0.985, 0.995]  # z at the bottom, then d, c, b, a
    assert heights == pytest.approx(spread(middles))
    assert all(high - low > 0.07 for low, high in pairwise(heights))
    assert max(heights) <= 1


def test_a_number_that_is_none_leaves_a_hole_and_no_mean():
    log = log_of(shares(a=(0.25, math.nan, 0.25, 0.25), b=(0.75, 0.5, 0.75, 0.75)))
    (axes,) = plotting.tasks_figure([log], ["x"]).axes
    assert texts(axes) == ["b  75%", "a  25%"]
