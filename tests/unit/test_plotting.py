"""The picture of a run shows what was logged, and says what was not."""

import math
from itertools import pairwise

import pytest

pytest.importorskip("matplotlib")

from unit.figures import TRAINING, curves, lines, log_of, panels, png_size, texts

from verl_ext import plotting
from verl_ext.plotting.panels import LINE_HEIGHT, spread
from verl_ext.run_log import Series


def test_a_run_is_written_as_a_png_of_plausible_size(tmp_path, capsys):
    plotting.draw_run(log_of(TRAINING, curves("toy")), tmp_path / "run.png", "a run")
    width, height = png_size(tmp_path / "run.png")
    assert 800 < width < 3000
    assert 600 < height < 2000
    assert 20_000 < (tmp_path / "run.png").stat().st_size < 500_000
    assert capsys.readouterr().out == ""


def test_the_lines_of_a_run_are_the_logged_series():
    figure = plotting.run_figure(log_of(TRAINING, curves("toy")), "a run")
    axes = panels(figure)
    assert list(axes) == ["training reward", "validation: toy", "entropy", "response length"]
    for title, metric in zip(
        ("training reward", "entropy", "response length"), TRAINING, strict=True
    ):
        series = TRAINING[metric]
        assert lines(axes[title]) == {metric: (series.steps, series.values)}
    assert lines(axes["validation: toy"]) == {
        f"pass@{k}": ((0, 4), (k / 16, 0.25 + k / 16)) for k in (1, 2, 4, 8)
    }
    assert figure.get_suptitle().startswith("a run")


def test_before_and_after_are_written_on_every_panel():
    axes = panels(plotting.run_figure(log_of(TRAINING, curves("toy")), "a run"))
    assert axes["entropy"].get_title(loc="right") == "2.00 → 1.00"
    assert "pass@8  0.50 → 0.75" in texts(axes["validation: toy"])


def test_each_data_source_has_a_panel_and_step_0_is_in_sight():
    figure = plotting.run_figure(log_of(TRAINING, curves("a"), curves("b/c")), "a run")
    assert {"validation: a", "validation: b/c"} <= set(panels(figure))
    for axes in figure.axes:
        assert axes.get_xlim() == (0, 4)


def test_missing_metrics_are_left_out_and_said(capsys):
    log = log_of({"critic/rewards/mean": TRAINING["critic/rewards/mean"]})
    figure = plotting.run_figure(log, "a run")
    assert list(panels(figure)) == ["training reward"]
    said = capsys.readouterr().out
    assert "actor/entropy" in said
    assert "response_length/mean" in said
    assert "validation" in said
    assert "critic/rewards/mean" not in said


def test_a_metric_that_was_never_finite_counts_as_missing(capsys):
    log = log_of(TRAINING, {"actor/entropy": Series((1, 2), (math.nan, math.nan))})
    assert "entropy" not in panels(plotting.run_figure(log, "a run"))
    assert "actor/entropy" in capsys.readouterr().out


def test_a_line_that_ends_in_nan_is_labelled_where_it_was_last_seen():
    nan = {"verl_ext/val/toy/pass@1": Series((0, 2, 4), (0.25, 0.5, math.nan))}
    (label,) = panels(plotting.run_figure(log_of(nan), "a run"))["validation: toy"].texts
    assert label.get_text() == "pass@1  0.25 → 0.50"
    assert label.xy == (1, 0.5)


def test_a_run_with_a_teacher_shows_how_far_it_is_and_others_do_not_miss_it(capsys):
    taught = {"verl_ext/teacher/reverse_kl": Series((1, 2), (2.5, 0.5))}
    alone, without = log_of(TRAINING, taught), log_of(TRAINING)
    (line,) = panels(plotting.run_figure(alone, "a run"))["KL to the teacher"].lines
    assert line.get_ydata().tolist() == [2.5, 0.5]
    assert "KL to the teacher" in panels(plotting.curves_figure([alone, without], "xy"))
    capsys.readouterr()
    assert not [name for name in panels(plotting.run_figure(without, "a run")) if "KL" in name]
    assert "reverse_kl" not in capsys.readouterr().out


def test_a_mean_reward_outside_0_to_1_stays_in_sight():
    mean = {"val-core/toy/reward/mean@4": Series((0, 4), (-3.0, 7.0))}
    (axes,) = plotting.run_figure(log_of(mean), "a run").axes
    low, high = axes.get_ylim()
    assert low < -3.0
    assert high > 7.0
    (label,) = axes.texts
    assert label.xy[1] == pytest.approx((7.0 - low) / (high - low))


def test_a_run_without_any_of_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plotting.draw_run(log_of({"x": Series((1,), (1.0,))}), tmp_path / "run.png", "a run")


def test_labels_keep_a_line_apart_and_move_no_further_than_needed():
    assert spread([0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9])
    # Three at one height: the middle one stays, its neighbours move by a line.
    assert spread([0.5, 0.5, 0.5]) == pytest.approx([0.5 - LINE_HEIGHT, 0.5, 0.5 + LINE_HEIGHT])
    assert spread([]) == []


def test_labels_stay_beside_their_panel_while_there_is_room():
    assert spread([1.0, 1.0]) == pytest.approx([1 - LINE_HEIGHT, 1.0])
    assert spread([0.0, 0.0]) == pytest.approx([0.0, LINE_HEIGHT])
    many = spread([1.0] * 40)  # more than fit: apart is what counts then
    gaps = [high - low for low, high in pairwise(many)]
    assert gaps == pytest.approx([LINE_HEIGHT] * 39)


def test_long_numbers_are_cut_so_that_the_title_stays_free():
    log = log_of({"response_length/mean": Series((1, 2), (884.65, 1488.0))})
    axes = panels(plotting.run_figure(log, "a run"))["response length"]
    assert axes.get_title(loc="right") == "885 → 1488"


def test_drawing_changes_no_global_style(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plotting.draw_run(log_of(TRAINING), tmp_path / "run.png", "a run")
    plotting.draw_curves([log_of(TRAINING)] * 2, ["x", "y"], tmp_path / "curves.png")
    assert dict(matplotlib.rcParams) == before
