import json

import pytest

from verl_ext.cli.main import main

pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n\x1a\n"


def record(step, *, sources=("toy",), n=4, leave_out=()):
    data = {f"verl_ext/val/{s}/pass@{k}": k / (n + 1) for s in sources for k in range(1, n + 1)}
    if step:
        data["critic/rewards/mean"] = 0.01 * step
        data["actor/entropy"] = 1.0 / step
        data["response_length/mean"] = 10.0
        data["timing_s/step"] = 1.0
    kept = {key: value for key, value in data.items() if not key.startswith(tuple(leave_out))}
    return json.dumps({"step": step, "data": kept})


def write_run(directory, steps=3, **options):
    directory.mkdir(parents=True, exist_ok=True)
    lines = [record(step, **options) for step in range(steps + 1)]
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return directory


@pytest.mark.parametrize("steps", [1, 3, 60])
@pytest.mark.parametrize("sources", [("toy",), ("a", "b", "c/d")])
def test_a_run_becomes_one_picture_and_a_table(tmp_path, capsys, steps, sources):
    run = write_run(tmp_path / "run", steps, sources=sources)
    assert main(["plot", str(run)]) == 0
    assert (run / "run.png").read_bytes().startswith(PNG)
    out = capsys.readouterr().out
    assert f"picture: {run / 'run.png'}" in out
    assert "accuracy (pass@1)" in out
    assert "left out" not in out


def test_the_picture_goes_where_it_was_asked_to(tmp_path):
    out = tmp_path / "new" / "picture.png"
    assert main(["plot", str(write_run(tmp_path / "run")), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(PNG)


def test_what_was_not_logged_is_left_out_and_said(tmp_path, capsys):
    run = write_run(tmp_path / "run", leave_out=("actor/entropy", "verl_ext/"))
    assert main(["plot", str(run)]) == 0
    out = capsys.readouterr().out
    assert "left out: Entropy of the policy: no actor/entropy" in out
    assert "left out: Validation: no verl_ext/val/" in out


def test_of_several_runs_the_newest_is_taken_and_named(tmp_path, capsys):
    import os

    old, new = write_run(tmp_path / "old"), write_run(tmp_path / "new")
    os.utime(old / "metrics.jsonl", (1, 1))
    assert main(["plot", str(tmp_path)]) == 0
    assert f"holds 2 runs; this is the newest: {new / 'metrics.jsonl'}" in capsys.readouterr().out


def test_runs_are_compared_in_one_picture(tmp_path, capsys):
    runs = [str(write_run(tmp_path / name, sources=("a", "b"))) for name in ("psr", "nsr")]
    out = tmp_path / "compared.png"
    assert main(["plot", "--compare", *runs, "--labels", "PSR", "NSR", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(PNG)
    assert "left out" not in capsys.readouterr().out


def test_a_comparison_says_which_curves_are_missing(tmp_path, capsys):
    untrained_only = write_run(tmp_path / "first", steps=0)
    run = write_run(tmp_path / "second")
    text = (run / "metrics.jsonl").read_text().split("\n", 1)[1]
    (run / "metrics.jsonl").write_text(text)  # no validation before training
    args = ["--out", str(tmp_path / "c.png")]
    assert main(["plot", "--compare", str(untrained_only), str(run), *args]) == 0
    assert "run 'first' has no validation after training" in capsys.readouterr().out
    assert main(["plot", "--compare", str(run), *args]) == 0
    assert "no run validated before training" in capsys.readouterr().out


def test_curves_are_the_last_validation_and_the_mean_of_the_untrained(tmp_path):
    from matplotlib.figure import Figure

    from verl_ext import plotting

    axes = Figure().subplots()
    validations = {
        "one": {"toy": {0: {1: 0.25, 2: 0.5}, 5: {1: 0.5, 2: 0.75}, 9: {1: 0.625, 2: 1.0}}},
        "two": {"toy": {0: {1: 0.75, 2: 0.5}, 9: {1: 0.125, 2: 0.25}}},
    }
    assert plotting._draw_pass_curves(axes, "toy", validations) == []
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert drawn == {"untrained": [0.5, 0.5], "one": [0.625, 1.0], "two": [0.125, 0.25]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plot"], "give either one RUN_DIR or --compare"),
        (["plot", "{run}", "--compare", "{run}"], "give either one RUN_DIR or --compare"),
        (["plot", "{run}", "--out", "x.pdf"], "--out must end in .png, got x.pdf"),
        (
            ["plot", "--compare", "{run}", "--labels", "a", "b"],
            "--labels names 2 runs, --compare 1",
        ),
        (["plot", "--compare", "{run}", "{run}"], "tell them apart with --labels"),
        (["plot", "{run}/nowhere"], "does not exist"),
        (["plot", "{empty}"], "trainer.logger=[console,file]"),
    ],
)
def test_wrong_arguments_are_answered_in_words(tmp_path, capsys, arguments, message):
    run = write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    filled = [text.format(run=run, empty=tmp_path / "empty") for text in arguments]
    assert main(filled) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_logged_nothing_to_draw_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "run", leave_out=("actor/", "verl_ext/", "critic/", "response"))
    assert main(["plot", str(run)]) == 2
    assert "nothing to draw" in capsys.readouterr().err
