"""Runs of several tasks: the shares of the advantage, and the rewards of each."""

import math
from itertools import pairwise

import pytest

pytest.importorskip("matplotlib")

from unit.figures import STEPS, TRAINING, lines, log_of, of_tasks, panels, png_size, texts

from verl_ext import plotting
from verl_ext.plotting.panels import COLOURS, spread
from verl_ext.plotting.tasks import task_colours


def shares(**tasks):
    return of_tasks("advantage_share", **tasks)


TWO = shares(math=(0.25, 0.5, 0.5, 0.75), openai__gsm8k=(0.75, 0.5, 0.5, 0.25))


def bands(axes):
    """Task -> the bottoms and the tops of its columns."""
    return {
        patch.get_label(): (tuple(patch.get_data().baseline), tuple(patch.get_data().values))
        for patch in axes.patches
    }


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
    width, height = png_size(tmp_path / "tasks.png")
    assert 2500 > width > 2 * height > 800


def test_the_picture_of_a_run_has_its_shares_last_and_none_where_none_were_logged(capsys):
    figure = plotting.run_figure(log_of(TRAINING, TWO), "a run")
    assert list(panels(figure))[-1] == "share of the advantage, by task"
    assert list(bands(figure.axes[-1])) == ["openai/gsm8k", "math"]
    assert len(plotting.run_figure(log_of(TRAINING), "a run").axes) == len(figure.axes) - 1


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
