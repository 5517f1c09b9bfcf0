import json
import math
import os

import pytest

from verl_ext import run_log


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in records)
    )
    return path


def test_verls_own_file_logger_writes_what_we_read(tmp_path, monkeypatch):
    tracking = pytest.importorskip("verl.utils.tracking")
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(path))
    logger = tracking.FileLogger("project", "experiment")
    logger.log({"actor/entropy": 0.5, "critic/values/mean": math.nan}, step=1)
    logger.finish()
    (step,) = run_log.read(path).steps.items()
    assert step[0] == 1
    assert step[1]["actor/entropy"] == 0.5
    assert math.isnan(step[1]["critic/values/mean"])


def test_steps_are_sorted_and_a_step_logged_twice_is_merged(tmp_path):
    path = write(tmp_path / "m.jsonl", (2, {"a": 1}), (0, {"b": 2}), (2, {"a": 3, "c": 4}))
    assert run_log.read(path).steps == {0: {"b": 2.0}, 2: {"a": 3.0, "c": 4.0}}


def test_text_is_no_metric(tmp_path):
    path = write(tmp_path / "m.jsonl", (1, {"a": 1, "name": "x"}))
    assert run_log.read(path).steps == {1: {"a": 1.0}}


def test_a_line_still_being_written_is_left_out_and_said(tmp_path):
    path = write(tmp_path / "m.jsonl", (1, {"a": 1}))
    path.write_text(path.read_text() + '{"step": 2, "da')
    log = run_log.read(path)
    assert log.cut_short
    assert list(log.steps) == [1]


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"step": 1}', '{"step": "1", "data": {}}', ""])
def test_a_broken_line_is_refused_with_its_number(tmp_path, line):
    path = write(tmp_path / "m.jsonl", (1, {"a": 1}))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(run_log.RunLogError, match="line 2"):
        run_log.read(path)


def test_the_first_key_that_was_logged_counts(tmp_path):
    log = run_log.read(write(tmp_path / "m.jsonl", (1, {"critic/score/mean": 0.5}), (2, {})))
    assert log.series(run_log.REWARD) == [(1, 0.5)]
    assert log.series(run_log.ENTROPY) == []


def test_pass_at_k_is_sorted_by_data_source_with_slashes(tmp_path):
    log = run_log.read(
        write(
            tmp_path / "m.jsonl",
            (0, {"verl_ext/val/openai/gsm8k/pass@1": 0.25, "verl_ext/val/toy/pass@16": 1}),
            (5, {"verl_ext/val/openai/gsm8k/pass@1": 0.5, "verl_ext/val/toy/other": 1}),
        )
    )
    assert log.pass_at_k() == {"openai/gsm8k": {0: {1: 0.25}, 5: {1: 0.5}}, "toy": {0: {16: 1.0}}}


def test_metrics_files_are_found_below_the_directory_newest_first(tmp_path):
    old = write(tmp_path / "day" / "one" / "metrics.jsonl", (1, {"a": 1}))
    new = write(tmp_path / "two.jsonl", (1, {"a": 1}))
    os.utime(old, (1, 1))
    (tmp_path / "rollouts.jsonl").write_text('{"input": "x", "output": "y"}\n')  # verl's rollouts
    assert run_log.find(tmp_path) == [new, old]
    assert run_log.find(old) == [old]


def test_a_directory_without_metrics_is_answered_with_the_setting(tmp_path):
    with pytest.raises(run_log.RunLogError, match=r"trainer\.logger=\[console,file\]"):
        run_log.find(tmp_path)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(run_log.RunLogError, match="does not exist"):
        run_log.find(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "shown"), [("run_7/metrics.jsonl", "run_7"), ("x/psr.jsonl", "psr")]
)
def test_a_run_is_named_after_its_file_or_folder(tmp_path, name, shown):
    assert run_log.RunLog(tmp_path / name).name == shown


@pytest.mark.parametrize(
    ("n", "ks"), [(1, [1]), (3, [1, 3]), (4, [1, 4]), (16, [1, 4, 16]), (256, [1, 4, 16, 64, 256])]
)
def test_a_few_k_end_with_n(n, ks):
    assert run_log.few_ks(n) == ks


@pytest.fixture
def log(tmp_path):
    before = {f"verl_ext/val/toy/pass@{k}": k / 8 for k in range(1, 5)}
    after = {f"verl_ext/val/toy/pass@{k}": k / 4 for k in range(1, 5)}
    steps = [(0, before)]
    steps += [(i, {"critic/rewards/mean": i / 10, "timing_s/step": 30.0}) for i in (1, 2)]
    steps[-1][1].update(after, **{"timing_s/testing": 5.0})
    return run_log.read(write(tmp_path / "psr.jsonl", *steps))


def test_the_summary_shows_accuracy_and_pass_at_k_before_and_after(log):
    lines = [line.split() for line in run_log.summary(log).splitlines()]
    assert lines[1] == ["before", "after"]
    assert lines[2] == ["toy", "accuracy", "(pass@1)", "0.125", "0.250"]
    assert lines[3] == ["toy", "pass@4", "0.500", "1.000"]
    assert lines[4][-2:] == ["0.100", "0.200"]


def test_the_summary_counts_steps_and_time(log):
    # 2 × 30 s of steps and 5 s of validation; step 0 is no training step.
    assert run_log.summary(log).splitlines()[0] == "psr: 2 steps in 1 min 5 s of training"
    assert run_log.summary(log, 7261).splitlines()[0] == "psr: 2 steps in 2 h 1 min"


def test_the_summary_without_a_validation_before_training_shows_a_dash(log):
    del log.steps[0]
    assert run_log.summary(log).splitlines()[2].split()[-2:] == ["-", "0.250"]


def test_the_summary_of_a_run_that_logged_nothing_is_one_line(tmp_path):
    assert run_log.summary(run_log.RunLog(tmp_path / "x.jsonl")) == "x: 0 steps in 0 s of training"
