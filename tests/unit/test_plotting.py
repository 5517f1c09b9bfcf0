"""The pictures show what was logged, and say what was not."""

import math
import struct
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from verl_ext import plotting
from verl_ext.run_log import RunLog, Series

STEPS = (1, 2, 3, 4)
TRAINING = {
    "critic/rewards/mean": Series(STEPS, (0.125, 0.25, 0.5, 0.75)),
    "actor/entropy": Series(STEPS, (2.0, 1.5, 1.25, 1.0)),
    "response_length/mean": Series(STEPS, (9.0, 8.0, 7.0, 7.5)),
}


def curves(source, before=0.0, after=0.25, n=8):
    return {
        f"verl_ext/val/{source}/pass@{k}": Series((0, 4), (before + k / 16, after + k / 16))
        for k in range(1, n + 1)
    }


def log_of(*parts):
    return RunLog(Path("metrics.jsonl"), {k: v for part in parts for k, v in part.items()})


def lines(axes):
    return {
        line.get_label(): (tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines
    }


def panels(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])  # width and height in the header chunk


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


def test_labels_keep_a_line_apart_and_move_no_further_than_needed():
    gap = plotting.LINE_HEIGHT
    assert plotting._spread([0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9])
    # Three at one height: the middle one stays, its neighbours move by a line.
    assert plotting._spread([0.5, 0.5, 0.5]) == pytest.approx([0.5 - gap, 0.5, 0.5 + gap])
    assert plotting._spread([]) == []


def test_drawing_changes_no_global_style(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plotting.draw_run(log_of(TRAINING), tmp_path / "run.png", "a run")
    assert dict(matplotlib.rcParams) == before
