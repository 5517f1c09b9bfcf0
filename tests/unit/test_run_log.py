"""Reading verl's metrics file, finding it, and the table at the end of a run."""

import json
import math
import os

import pytest

from verl_ext import run_log


def write(path, *records, tail=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def record(step, **data):
    return {"step": step, "data": data}


def validated(step, source, values, **more):
    curve = {f"verl_ext/val/{source}/pass@{k}": v for k, v in enumerate(values, start=1)}
    return {"step": step, "data": {**curve, **more}}


def test_each_metric_becomes_a_series_with_the_steps_that_logged_it(tmp_path):
    path = write(
        tmp_path / "metrics.jsonl", record(0, a=1.5), record(1, b=2), record(2, a=0.25, b=3)
    )
    log = run_log.read(path)
    assert log.series["a"] == run_log.Series((0, 2), (1.5, 0.25))
    assert log.series["b"] == run_log.Series((1, 2), (2.0, 3.0))
    assert log.last_step == 2


def test_null_is_read_as_nan_and_text_is_left_out(tmp_path):
    log = run_log.read(write(tmp_path / "m.jsonl", record(1, a=None, note="hello")))
    assert math.isnan(log.series["a"].values[0])
    assert "note" not in log.series


def test_what_verls_own_logger_writes_is_read_back(tmp_path, monkeypatch):
    np = pytest.importorskip("numpy")
    tracking = pytest.importorskip("verl.utils.tracking")
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "verl.jsonl"))
    logger = tracking.FileLogger("project", "run")
    logger.log({"critic/rewards/mean": np.float32(0.25), "x": float("nan")}, step=3)
    logger.finish()
    assert run_log.find(tmp_path) == tmp_path / "verl.jsonl"
    log = run_log.read(tmp_path / "verl.jsonl")
    assert log.series["critic/rewards/mean"] == run_log.Series((3,), (0.25,))
    assert math.isnan(log.series["x"].values[0])


def test_a_half_written_last_line_is_ignored_and_said_once(tmp_path, capsys):
    path = write(tmp_path / "metrics.jsonl", record(1, a=1.0), tail='{"step":2,"data":{"a":')
    log = run_log.read(path)
    assert log.series["a"].steps == (1,)
    assert capsys.readouterr().out.count("ignored line 2") == 1


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path, capsys):
    path = write(tmp_path / "metrics.jsonl", record(1, a=1.0), tail='{"step":2,"data":{"a":2.0}}')
    assert run_log.read(path).series["a"].steps == (1, 2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "line", ["{not json", '{"step":2}', '{"data":{}}', "[1]", '{"step":"2","data":{}}', "\xff"]
)
def test_a_malformed_line_elsewhere_is_named_by_its_number(tmp_path, line):
    path = write(tmp_path / "metrics.jsonl", record(1, a=1.0), tail=f"{line}\n")
    with pytest.raises(ValueError, match="line 2"):
        run_log.read(path)


def test_a_metric_logged_twice_at_a_step_keeps_the_later_value(tmp_path):
    log = run_log.read(write(tmp_path / "m.jsonl", record(1, a=1.0), record(1, a=2.0, b=3.0)))
    assert log.series["a"] == run_log.Series((1,), (2.0,))


def test_an_empty_file_is_a_run_without_metrics(tmp_path):
    log = run_log.read(write(tmp_path / "m.jsonl"))
    assert log.series == {}
    assert "no validation was logged" in run_log.summary(log)


def test_pass_at_k_is_ordered_by_number_and_kept_apart_by_data_source(tmp_path):
    values = [k / 16 for k in range(1, 13)]
    path = write(
        tmp_path / "m.jsonl", validated(0, "openai/gsm8k", values), validated(0, "toy", [0.5])
    )
    log = run_log.read(path)
    assert log.data_sources == ["openai/gsm8k", "toy"]
    assert list(log.pass_at_k("openai/gsm8k")) == list(range(1, 13))
    assert list(log.pass_at_k("toy")) == [1]
    assert log.pass_at_k("gsm8k") == {}
    assert list(log.validation("openai/gsm8k")) == [f"pass@{k}" for k in (1, 2, 4, 8, 12)]


def test_pass_at_k_is_ascending_whatever_the_order_in_the_file(tmp_path):
    shuffled = {f"verl_ext/val/toy/pass@{k}": k / 16 for k in (10, 2, 1)}
    log = run_log.read(write(tmp_path / "m.jsonl", record(0, **shuffled)))
    assert list(log.pass_at_k("toy")) == [1, 2, 10]


def test_without_pass_at_k_verls_mean_stands_in(tmp_path):
    log = run_log.read(write(tmp_path / "m.jsonl", record(0, **{"val-core/toy/acc/mean@4": 0.5})))
    assert log.data_sources == ["toy"]
    assert log.validation("toy") == {"acc mean@4": run_log.Series((0,), (0.5,))}


def test_pass_at_k_goes_before_verls_mean(tmp_path):
    mean = {"val-core/toy/acc/mean@2": 0.5}
    log = run_log.read(write(tmp_path / "m.jsonl", validated(0, "toy", [0.5, 0.75], **mean)))
    assert list(log.validation("toy")) == ["pass@1", "pass@2"]


@pytest.mark.parametrize(
    ("ks", "expected"),
    [
        ([], []),
        ([1], [1]),
        ([1, 2, 3], [1, 2, 3]),  # 3 is the largest
        (range(1, 9), [1, 2, 4, 8]),
        (range(1, 257), [1, 2, 4, 8, 256]),
    ],
)
def test_a_few_k_always_include_the_largest(ks, expected):
    assert run_log.few(ks) == expected


def test_find_takes_the_newest_of_several_and_says_so(tmp_path, capsys):
    old = write(tmp_path / "a" / "metrics.jsonl", record(1, a=1.0))
    new = write(tmp_path / "b" / "c" / "metrics.jsonl", record(1, a=1.0))
    os.utime(old, (1_000, 1_000))
    assert run_log.find(tmp_path) == new
    assert "took the newest" in capsys.readouterr().out
    assert run_log.find(tmp_path / "a") == old
    assert capsys.readouterr().out == ""


def test_find_accepts_the_file_itself_and_passes_dumped_generations_by(tmp_path):
    write(tmp_path / "rollouts" / "1.jsonl", {"input": "x", "output": "y", "step": 1})
    with pytest.raises(FileNotFoundError, match=r"trainer\.logger=\[file\]"):
        run_log.find(tmp_path)
    path = write(tmp_path / "metrics.jsonl", record(1, a=1.0))
    assert run_log.find(tmp_path) == path
    assert run_log.find(path) == path


def test_find_refuses_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run directory"):
        run_log.find(tmp_path / "nowhere")


def cells(text, label):
    return next(line.split() for line in text.splitlines() if label in line.split())


def test_the_summary_compares_the_first_validation_with_the_last(tmp_path):
    path = write(
        tmp_path / "m.jsonl",
        validated(0, "toy", [0.25, 0.5]),
        record(1, **{"critic/rewards/mean": 0.125, "timing_s/step": 2.0}),
        validated(2, "toy", [0.375, 0.75]),
        validated(3, "toy", [0.5, 0.875], **{"critic/rewards/mean": 0.625, "timing_s/step": 4.0}),
    )
    text = run_log.summary(run_log.read(path), seconds=3725)
    assert cells(text, "validation") == ["validation", "step", "0", "step", "3", "change"]
    assert cells(text, "pass@1") == ["toy", "pass@1", "0.250", "0.500", "+0.250"]
    assert cells(text, "pass@2") == ["pass@2", "0.500", "0.875", "+0.375"]
    assert cells(text, "training") == ["training", "step", "1", "step", "3", "change"]
    assert cells(text, "reward") == ["reward", "mean", "0.125", "0.625", "+0.500"]
    assert text.splitlines()[-1] == "3 steps, 3.0 s a step (median), 1 h 2 min in all"


def test_metrics_of_a_task_are_found_by_its_name_slashes_and_all(tmp_path):
    data = {
        "verl_ext/task/openai/gsm8k/reward": 0.5,
        "verl_ext/task/openai/gsm8k/rows": 4.0,
        "verl_ext/task/a/reward/reward": 0.25,  # a task called a/reward
        "verl_ext/task/a/reward/advantage_share": 1.0,
        "verl_ext/sampler/a/share": 0.75,
    }
    log = run_log.read(write(tmp_path / "m.jsonl", record(1, **data)))
    assert list(log.by_task("reward")) == ["a/reward", "openai/gsm8k"]
    assert log.by_task("rows") == {"openai/gsm8k": run_log.Series((1,), (4.0,))}
    assert log.by_task("advantage_share") == {"a/reward": run_log.Series((1,), (1.0,))}
    assert run_log.read(write(tmp_path / "n.jsonl", record(1, a=1.0))).by_task("reward") == {}


def test_the_summary_has_one_row_for_the_reward_of_each_task(tmp_path):
    # "mean" is also a task's name: it must not take the place of the mean over all.
    batches = {1: {"b": 0.25, "mean": 2.0}, 2: {"b": 0.75, "a": 4.0}}
    means = {1: 0.125, 2: 0.5}
    records = [
        record(
            step,
            **{"critic/rewards/mean": means[step]},
            **{f"verl_ext/task/{task}/reward": value for task, value in tasks.items()},
        )
        for step, tasks in batches.items()
    ]
    path = write(tmp_path / "m.jsonl", *records)
    lines = [line.split() for line in run_log.summary(run_log.read(path)).splitlines()]
    assert lines[:5] == [
        ["training", "step", "1", "step", "2", "change"],
        ["reward", "mean", "0.125", "0.500", "+0.375"],
        ["of", "a", "-", "4.000", "-"],  # none of it in the first batch
        ["of", "b", "0.250", "0.750", "+0.500"],
        ["of", "mean", "2.000", "-", "-"],
    ]


def test_a_single_validation_has_no_change(tmp_path):
    text = run_log.summary(run_log.read(write(tmp_path / "m.jsonl", validated(5, "toy", [0.5]))))
    assert cells(text, "pass@1") == ["toy", "pass@1", "0.500", "0.500", "-"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(9.4, "9 s in all"), (59.6, "1 min 0 s in all"), (3600, "1 h 0 min in all")],
)
def test_wall_time_is_written_for_people(seconds, expected, tmp_path):
    log = run_log.read(write(tmp_path / "m.jsonl", record(1, a=1.0)))
    assert run_log.summary(log, seconds).endswith(expected)
