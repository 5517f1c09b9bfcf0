"""Questions that stand in train and in test, twice in one split, or in two files."""

import json
import re

import pytest
from unit.public_data import GSM8K, MATH, jsonl, one_file_a_problem, parquet, read, run

from verl_ext.data.convert import convert
from verl_ext.data.tasks import TASKS


@pytest.fixture
def leaky(tmp_path):
    jsonl(tmp_path / "in" / "test.jsonl", GSM8K["test"])
    leaked = {**GSM8K["test"][0], "question": " How many legs\nhas a  cat? "}
    jsonl(tmp_path / "in" / "train.jsonl", [leaked, *GSM8K["train"]])
    return tmp_path / "in"


def test_training_questions_of_the_test_are_dropped_and_counted(leaky, tmp_path, capsys):
    assert run("gsm8k", "--from", leaky, "--out", tmp_path / "out") == 0
    rows = read(tmp_path / "out", "train")
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["4", "2400", "-3"]
    assert [row["extra_info"]["index"] for row in rows] == [1, 2, 3]  # as published
    assert len(read(tmp_path / "out", "test")) == 1
    text = capsys.readouterr().out
    assert "1 question(s) of train stand in test too: dropped from train" in text
    assert re.search(r"^train +3 +1 ", text, re.MULTILINE)


def test_training_questions_of_the_test_can_be_an_error_or_kept(leaky, tmp_path, capsys):
    assert run("gsm8k", "--from", leaky, "--out", tmp_path / "out", "--leaks", "error") == 2
    assert "1 question(s) of train stand in test too" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("gsm8k", "--from", leaky, "--out", tmp_path / "out", "--leaks", "keep") == 0
    assert "KEPT in train" in capsys.readouterr().out
    assert len(read(tmp_path / "out", "train")) == 4


def test_no_training_row_left_is_an_error(tmp_path, capsys):
    for split in ("train", "test"):
        jsonl(tmp_path / "in" / f"{split}.jsonl", GSM8K["test"])
    assert run("gsm8k", "--from", tmp_path / "in", "--out", tmp_path / "out") == 2
    assert "no row of train is left: 1 are in test too" in capsys.readouterr().err


def test_the_same_data_twice_is_refused(tmp_path, capsys):
    parquet(tmp_path / "a" / "test.parquet", [*MATH["train"], *MATH["test"]])
    jsonl(tmp_path / "b" / "test.jsonl", MATH["test"])  # as MATH-500 beside MATH
    paths = ("--from", tmp_path / "a", "--from", tmp_path / "b")
    assert run("math", *paths, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"all 1 questions of {tmp_path / 'b' / 'test.jsonl'} (test) stand in" in error


def test_a_question_that_its_own_split_repeats_is_kept_and_counted(tmp_path, capsys):
    jsonl(tmp_path / "train.jsonl", [*GSM8K["train"], GSM8K["train"][0]])
    assert run("gsm8k", "--from", tmp_path / "train.jsonl", "--out", tmp_path / "out") == 0
    assert "1 row(s) of train repeat a question of train: kept" in capsys.readouterr().out
    assert len(read(tmp_path / "out", "train")) == 4


def test_a_problem_that_stands_in_two_files_of_one_folder_is_a_repeat_and_no_copy(tmp_path, capsys):
    one_file_a_problem(tmp_path, "math")
    again = tmp_path / "MATH" / "train" / "geometry" / "1.json"
    again.parent.mkdir()
    again.write_text(json.dumps(MATH["train"][0]))
    assert run("math", "--from", tmp_path / "MATH", "--out", tmp_path / "out") == 0
    assert "1 row(s) of train repeat a question of train: kept" in capsys.readouterr().out
    twice = ("--from", tmp_path / "MATH", "--from", tmp_path / "MATH" / "train")
    assert run("math", *twice, "--out", tmp_path / "out") == 2
    assert "all 2 questions of" in capsys.readouterr().err


def test_one_split_beside_an_older_file_of_the_other_is_refused(leaky, tmp_path, capsys):
    run("gsm8k", "--from", leaky, "--out", tmp_path / "out")
    assert run("gsm8k", "--from", leaky / "train.jsonl", "--out", tmp_path / "out") == 2
    assert "test.parquet from before would not be checked" in capsys.readouterr().err
    assert len(read(tmp_path / "out", "train")) == 3


def test_an_unknown_way_with_leaks_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="leaks must be one of drop, error, keep, got 'warn'"):
        convert(TASKS["gsm8k"], [tmp_path / "none"], tmp_path / "out", leaks="warn")
