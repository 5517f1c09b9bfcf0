"""Runs side by side: their curves, their last validations, and what one of them lacks."""

import math

import pytest

pytest.importorskip("matplotlib")

from unit.figures import STEPS, TRAINING, curves, lines, log_of, panels, png_size, texts

from verl_ext import plotting
from verl_ext.run_log import Series


def test_a_comparison_draws_the_last_validation_of_each_run_and_the_untrained_model():
    logs = [log_of(curves("toy", after=0.25)), log_of(curves("toy", before=0.125, after=0.5))]
    figure = plotting.comparison_figure(logs, ["first", "second"])
    (axes,) = figure.axes
    ks = tuple(range(1, 9))
    assert lines(axes) == {
        "first": (ks, tuple(0.25 + k / 16 for k in ks)),
        "second": (ks, tuple(0.5 + k / 16 for k in ks)),
        "untrained": (ks, tuple(k / 16 for k in ks)),  # of the first run
    }
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [1, 2, 4, 8]
    colours = {line.get_color() for line in axes.lines}
    assert len(colours) == 3


def test_a_comparison_has_a_panel_for_each_data_source(tmp_path):
    logs = [log_of(curves("a"), curves("b")), log_of(curves("a"), curves("b"))]
    assert list(panels(plotting.comparison_figure(logs, ["x", "y"]))) == ["a", "b"]
    plotting.draw_comparison(logs, ["x", "y"], tmp_path / "comparison.png")
    width, height = png_size(tmp_path / "comparison.png")
    assert width > height > 300


def test_what_a_comparison_lacks_is_said(capsys):
    late = {"verl_ext/val/a/pass@1": Series((2, 4), (0.25, 0.5))}
    figure = plotting.comparison_figure([log_of(late), log_of(curves("b"))], ["x", "y"])
    said = capsys.readouterr().out
    assert "y: no pass@k of a, left out" in said
    assert "no validation of a before training" in said
    assert list(lines(panels(figure)["a"])) == ["x"]


def test_a_comparison_of_nothing_is_refused():
    with pytest.raises(ValueError, match="one label for each run"):
        plotting.comparison_figure([log_of(curves("toy"))], ["x", "y"])
    with pytest.raises(ValueError, match="no run measured"):
        plotting.comparison_figure([log_of(TRAINING)], ["x"])


def of_reward(*values, steps=STEPS):
    return {"critic/rewards/mean": Series(steps, values)}


def test_curves_draw_each_runs_own_series_over_the_step():
    other = {
        "critic/rewards/mean": Series((1, 2), (0.0, 0.5)),
        "actor/entropy": Series((1, 2), (3.0, 2.5)),
        "response_length/mean": Series((1, 2), (5.0, 6.0)),
    }
    logs = [log_of(TRAINING, curves("b"), curves("a")), log_of(other, curves("a"), curves("b"))]
    figure = plotting.curves_figure(logs, ["x", "y"])
    axes = panels(figure)
    assert list(axes) == [
        "training reward", "validation: a", "validation: b", "entropy", "response length"
    ]  # fmt: skip
    for title, metric in zip(
        ("training reward", "entropy", "response length"), TRAINING, strict=True
    ):
        assert lines(axes[title]) == {
            "x": (TRAINING[metric].steps, TRAINING[metric].values),
            "y": (other[metric].steps, other[metric].values),
        }
    assert figure.get_suptitle().startswith("2 runs")
    assert all(panel.get_xlim() == (0, 4) for panel in figure.axes)


def test_curves_show_pass_at_1_of_the_validation_on_the_whole_scale():
    logs = [log_of(curves("toy")), log_of(curves("toy", before=0.125, after=0.5))]
    (axes,) = plotting.curves_figure(logs, ["x", "y"]).axes
    assert lines(axes) == {
        "x": ((0, 4), (1 / 16, 0.25 + 1 / 16)),
        "y": ((0, 4), (0.125 + 1 / 16, 0.5 + 1 / 16)),
    }
    assert axes.get_ylabel() == "pass@1"
    assert axes.get_ylim() == (0, 1)


def test_curves_fall_back_to_the_mean_that_verl_logs():
    mean = {"val-core/toy/reward/mean@4": Series((0, 4), (-3.0, 7.0))}
    (axes,) = plotting.curves_figure([log_of(mean), log_of(mean)], ["x", "y"]).axes
    assert lines(axes)["y"] == ((0, 4), (-3.0, 7.0))
    assert axes.get_ylabel() == "reward mean@4"
    low, high = axes.get_ylim()
    assert low < -3.0
    assert high > 7.0


def test_curves_tell_apart_what_was_not_measured_alike():
    mean = {"val-core/toy/acc/mean@4": Series((0, 4), (0.25, 0.5))}
    (axes,) = plotting.curves_figure([log_of(curves("toy")), log_of(mean)], ["x", "y"]).axes
    assert list(lines(axes)) == ["x (pass@1)", "y (acc mean@4)"]
    assert axes.get_ylabel() == "pass@1 / acc mean@4"


def test_curves_that_overlap_are_both_seen():
    logs = [log_of(TRAINING) for _ in range(12)]
    axes = panels(plotting.curves_figure(logs, [str(i) for i in range(12)]))["entropy"]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 12
    first, second = axes.lines[:2]
    assert first.get_linestyle() == "-" != second.get_linestyle()
    assert second.get_linewidth() < first.get_linewidth()
    assert second.get_zorder() > first.get_zorder()
    fifth = axes.lines[4]  # wide again: must not cover the thin ones
    assert fifth.get_zorder() < second.get_zorder()


def test_curves_are_labelled_with_their_last_value_and_an_early_end_is_said():
    logs = [log_of(of_reward(0.0, 0.25, 0.5, 0.75)), log_of(of_reward(0.25, 1.0, steps=(1, 2)))]
    (axes,) = plotting.curves_figure(logs, ["x", "y"]).axes
    assert texts(axes) == ["x  0.75", "y  1.00 at step 2"]  # from the lower end to the higher
    assert axes.get_xlim() == (0, 4)  # of the longer run
    low, high = axes.get_ylim()
    heights = [(value - low) / (high - low) for value in (0.75, 1.0)]
    assert [text.xy[1] for text in axes.texts] == pytest.approx(heights)
    assert [text.get_color() for text in axes.texts] == [line.get_color() for line in axes.lines]


def test_a_curve_that_ends_in_nan_is_labelled_where_it_was_last_seen():
    logs = [log_of(of_reward(0.0, 0.25, 0.5, math.nan)), log_of(of_reward(0.0, 0.0, 0.0, 0.0))]
    (axes,) = plotting.curves_figure(logs, ["x", "y"]).axes
    assert texts(axes) == ["y  0.00", "x  0.50 at step 3"]


def test_a_single_point_is_seen_and_many_are_not_marked():
    short = log_of(of_reward(0.5, steps=(1,)))
    long = log_of(of_reward(*[0.5] * 60, steps=tuple(range(1, 61))))
    (axes,) = plotting.curves_figure([short, long], ["x", "y"]).axes
    assert [line.get_marker() for line in axes.lines] == ["o", ""]


def test_what_a_run_lacks_is_drawn_for_the_others_and_said(capsys):
    no_entropy = {name: series for name, series in TRAINING.items() if name != "actor/entropy"}
    nan = {"actor/entropy": Series((1, 2), (math.nan, math.nan))}
    logs = [log_of(no_entropy), log_of(TRAINING, curves("a")), log_of(no_entropy, nan)]
    axes = panels(plotting.curves_figure(logs, ["x", "y", "z"]))
    assert list(lines(axes["entropy"])) == ["y"]
    assert list(lines(axes["validation: a"])) == ["y"]
    # The colour of a run is its own in every panel.
    assert axes["entropy"].lines[0].get_color() == axes["training reward"].lines[1].get_color()
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "x: no actor/entropy, left out",
        "x: no validation of a, left out",
        "z: no actor/entropy, left out",
        "z: no validation of a, left out",
    ]


def test_what_all_runs_lack_is_said_once(capsys):
    logs = [log_of(of_reward(0.0, 0.0, 0.0, 0.5))] * 2
    assert list(panels(plotting.curves_figure(logs, ["x", "y"]))) == ["training reward"]
    (said,) = capsys.readouterr().out.splitlines()
    assert said.endswith("actor/entropy, response_length/mean, validation (pass@k)")


def test_curves_are_written_as_a_png(tmp_path, capsys):
    logs = [log_of(TRAINING, curves("toy"))] * 2
    plotting.draw_curves(logs, ["x", "y"], tmp_path / "curves.png")
    width, height = png_size(tmp_path / "curves.png")
    assert width > height > 600
    assert capsys.readouterr().out == ""


def test_curves_of_nothing_are_refused():
    with pytest.raises(ValueError, match="one label for each run"):
        plotting.curves_figure([log_of(TRAINING)], ["x", "y"])
    with pytest.raises(ValueError, match="one label for each run"):
        plotting.curves_figure([], [])
    with pytest.raises(ValueError, match="nothing to draw"):
        plotting.curves_figure([log_of({"x": Series((1,), (1.0,))})] * 2, ["x", "y"])
