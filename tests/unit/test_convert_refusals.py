"""Data that cannot be converted: which words refuse them, and what may be left out."""

import re

import pytest
from unit.public_data import GSM8K, MATH, PUBLIC, jsonl, parquet, read, run

from verl_ext.data.convert import convert
from verl_ext.data.tasks import TASKS

BROKEN = [
    ("gsm8k", {"question": "x"}, "expected the key 'answer', found question"),
    ("gsm8k", {"question": "x", "answer": "It is 4."}, "expected '#### 42' at the end"),
    ("gsm8k", {"question": "x", "answer": "#### four"}, "one number behind '####', got 'four'"),
    ("gsm8k", {"question": "x", "answer": "#### 3, 4"}, "one number behind '####', got '3, 4'"),
    ("gsm8k", {"question": " ", "answer": "#### 4"}, "'question' is blank"),
    ("gsm8k", {"question": "x", "answer": 4}, "'answer' must be text, got 4"),
    ("math", {**MATH["test"][0], "solution": "It is 4."}, "boxed{} in 'solution', found none"),
    ("math", {**MATH["test"][0], "solution": "\\boxed{4"}, "boxed{} in 'solution', found none"),
    ("math", {**MATH["test"][0], "solution": "\\boxed{}"}, "found an empty one"),
    ("math", {**MATH["test"][0], "level": 6}, "expected 'level' as 1 to 5"),
    ("math", {"problem": "x", "solution": "\\boxed{1}", "level": 1}, "key 'type' or 'subject'"),
]


@pytest.mark.parametrize(("name", "broken", "said"), BROKEN)
def test_a_row_that_cannot_be_read_is_named_with_file_and_place(
    name, broken, said, tmp_path, capsys
):
    lines = jsonl(tmp_path / "a" / "test.jsonl", [*PUBLIC[name]["train"], broken])
    number = len(PUBLIC[name]["train"]) + 1
    assert run(name, "--from", lines, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"{lines}, line {number}: " in error
    assert said in error
    assert "--drop-unreadable" in error
    table = parquet(tmp_path / "b" / "test.parquet", [broken])
    assert run(name, "--from", table, "--out", tmp_path / "out") == 2
    assert f"{table}, row 1: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"question": \n', "line 1: expected JSON"),
        (b'\n\n["a list"]\n', "line 3: expected a JSON object, got ['a list']"),
        (b"\n" + '{"question": "é"}'.encode("latin-1"), "line 2: expected UTF-8"),
        (b"", "there is no row in it"),
        (b"\n \n", "there is no row in it"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--drop-unreadable"]])
def test_a_file_that_is_no_jsonl_is_refused_whatever_the_options(
    content, said, more, tmp_path, capsys
):
    file = tmp_path / "train.jsonl"
    file.write_bytes(content)
    assert run("gsm8k", "--from", file, "--out", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert str(file) in error
    assert said in error


def test_a_git_lfs_pointer_is_recognised(tmp_path, capsys):
    file = tmp_path / "train-00000-of-00001.parquet"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert run("gsm8k", "--from", file, "--out", tmp_path / "out") == 2
    assert "git lfs pull" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "nothing", "there is no such file or folder"),
        (lambda p: jsonl(p / "MATH.tar.gz", []), "an archive; unpack it"),
        (lambda p: jsonl(p / "folder" / "MATH.zip", []).parent, "only an archive"),
        *(
            ((lambda p, end=end: jsonl(p / f"MATH{end}", [])), "an archive; unpack it")
            for end in (".zip", ".ZIP", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
        ),
        (lambda p: jsonl(p / "train.csv", []), "expected a folder or a file .jsonl, .json"),
        (lambda p: jsonl(p / "data.jsonl", []), "neither the file's name nor its folder's"),
        (lambda p: jsonl(p / "train_socratic.jsonl", []), "neither the file's name"),
        (lambda p: jsonl(p / "train_test.jsonl", []), "says both train and test"),
        (lambda p: jsonl(p / "x" / "data.jsonl", []).parent, "says train or test, only data.jsonl"),
        (lambda p: jsonl(p / "y" / "notes.txt", []).parent, "no file .jsonl"),
    ],
)
def test_a_path_without_data_is_refused_in_words(make, said, tmp_path, capsys):
    assert run("gsm8k", "--from", make(tmp_path), "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_above_the_one_that_was_named_tells_no_split(tmp_path, capsys):
    jsonl(tmp_path / "test" / "in" / "data.jsonl", GSM8K["test"])
    assert run("gsm8k", "--from", tmp_path / "test" / "in", "--out", tmp_path / "out") == 2
    assert "says train or test, only data.jsonl" in capsys.readouterr().err
    assert run("gsm8k", "--from", tmp_path / "test", "--out", tmp_path / "out") == 0


def test_unreadable_rows_are_left_out_on_request_and_counted(tmp_path, capsys):
    rows = [GSM8K["train"][0], {"question": "x", "answer": "?"}, GSM8K["train"][1]]
    file = jsonl(tmp_path / "train.jsonl", rows)
    out = tmp_path / "out"
    assert run("gsm8k", "--from", file, "--out", out, "--drop-unreadable") == 0
    assert [row["extra_info"]["index"] for row in read(out, "train")] == [0, 2]
    text = capsys.readouterr().out
    assert "1 unreadable row(s) of train, the first:" in text
    assert f"{file}, line 2" in text
    assert re.search(r"^train +2 +1 ", text, re.MULTILINE)


def test_an_unreadable_row_stops_the_conversion_unless_it_may_be_left_out(tmp_path):
    file = jsonl(tmp_path / "train.jsonl", [*PUBLIC["gsm8k"]["train"], {"question": "x"}])
    with pytest.raises(ValueError, match="--drop-unreadable"):
        convert(TASKS["gsm8k"], [file], tmp_path / "out")
    assert convert(TASKS["gsm8k"], [file], tmp_path / "out", drop_unreadable=True)
