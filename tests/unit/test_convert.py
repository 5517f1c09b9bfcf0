"""``verl-ext convert``: every public layout, questions of one's own, what is written and where."""

import re

import pyarrow.parquet as pq
import pytest
from unit.public_data import (
    GSM8K,
    LAYOUTS,
    MATH,
    PUBLIC,
    TRUTHS,
    jsonl,
    one_file_a_problem,
    original_repository,
    plain_files,
    read,
    run,
)

from verl_ext.data import locations
from verl_ext.data.convert import convert
from verl_ext.data.files import find
from verl_ext.data.records import records
from verl_ext.data.tasks import TASKS


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_every_public_layout_gives_the_same_rows_in_the_published_order(name, layout, tmp_path):
    layout(tmp_path / "in", name)
    convert(TASKS[name], [tmp_path / "in"], tmp_path / "out")
    question = {"gsm8k": "question", "math": "problem"}[name]
    for split, published in PUBLIC[name].items():
        rows = read(tmp_path / "out", split)
        assert [row["reward_model"] for row in rows] == [
            {"style": "rule", "ground_truth": truth} for truth in TRUTHS[name][split]
        ]
        assert [row["extra_info"]["question"] for row in rows] == [p[question] for p in published]
        assert [row["extra_info"]["index"] for row in rows] == list(range(len(published)))
        assert {row["extra_info"]["split"] for row in rows} == {split}
        assert {row["data_source"] for row in rows} == {TASKS[name].data_source}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_prompt_is_the_question_and_then_the_instruction(name, tmp_path):
    plain_files(tmp_path / "in", name)
    convert(TASKS[name], [tmp_path / "in"], tmp_path / "a")
    convert(TASKS[name], [tmp_path / "in"], tmp_path / "b", instruction="Answer: \\boxed{}")
    convert(TASKS[name], [tmp_path / "in"], tmp_path / "c", instruction="")
    for folder, below in (
        ("a", "\n\n" + TASKS[name].instruction),
        ("b", "\n\nAnswer: \\boxed{}"),
        ("c", ""),
    ):
        for row in read(tmp_path / folder, "train"):
            content = row["extra_info"]["question"] + below
            assert row["prompt"] == [{"role": "user", "content": content}]


def test_level_subject_and_solution_of_math_survive(tmp_path):
    plain_files(tmp_path / "in", "math")
    convert(TASKS["math"], [tmp_path / "in"], tmp_path / "out")
    info = [row["extra_info"] for split in MATH for row in read(tmp_path / "out", split)]
    assert [row["level"] for row in info] == ["Level 1", "Level ?", "Level 5"]
    assert [row["type"] for row in info] == [
        "Prealgebra",
        "Number Theory",
        "Counting & Probability",
    ]
    assert [row["answer"] for row in info] == [
        row["solution"] for rows in MATH.values() for row in rows
    ]


def test_math_500_brings_its_own_answers_levels_as_numbers_and_a_subject(tmp_path):
    jsonl(
        tmp_path / "MATH-500" / "test.jsonl",
        [
            {
                "problem": "One half?",
                "solution": "It is $\\boxed{\\tfrac 12}$",
                "answer": "\\frac{1}{2}",
                "subject": "Prealgebra",
                "level": 2,
                "unique_id": "test/prealgebra/1.json",
            }
        ],
    )
    one_file_a_problem(tmp_path, "math")
    convert(TASKS["math"], [tmp_path / "MATH" / "train", tmp_path / "MATH-500"], tmp_path / "out")
    (row,) = read(tmp_path / "out", "test")
    assert row["reward_model"]["ground_truth"] == "\\frac{1}{2}"
    assert (row["extra_info"]["level"], row["extra_info"]["type"]) == ("Level 2", "Prealgebra")
    assert len(read(tmp_path / "out", "train")) == 2


OWN = [
    {"frage": "Why is the sky blue?", "antwort": " It scatters short waves.\n", "id": 7},
    {"frage": "Who wrote Faust?", "antwort": "Goethe"},
]


def test_questions_of_ones_own_keep_their_reference_answers(tmp_path):
    file = jsonl(tmp_path / "train.jsonl", OWN)
    names = ("--question", "frage", "--answer", "antwort", "--data-source", "faq")
    assert run("qa", "--from", file, "--out", tmp_path / "out", *names) == 0
    first, second = read(tmp_path / "out", "train")
    assert first["data_source"] == second["data_source"] == "faq"
    assert first["ability"] == "qa"
    assert first["reward_model"] == {"style": "rule", "ground_truth": "It scatters short waves."}
    (message,) = first["prompt"]
    assert message["content"].startswith("Why is the sky blue?\n\nThink between <think>")
    assert "<answer>" in message["content"]
    assert first["extra_info"] == {"index": 0, "split": "train", "question": "Why is the sky blue?"}


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        ({"frage": "Who?", "antwort": " "}, (), "line 3: 'antwort' is blank"),
        ({"frage": "Who?", "antwort": 4}, (), "line 3: 'antwort' must be text, got 4"),
        ({"frage": "Who?"}, (), "line 3: expected the key 'antwort', found frage"),
        (
            OWN[0],
            ("--answer", "reply"),
            "'reply', found frage, antwort, id. Columns of other names: --question",
        ),
        (OWN[0], ("--answer", "frage"), "question and answer are one column, 'frage'"),
        (OWN[0], ("--data-source", ""), "the data source must have a name, got ''"),
    ],
)
def test_a_row_without_question_or_reference_is_named(tmp_path, capsys, row, names, message):
    file = jsonl(tmp_path / "train.jsonl", [*OWN, row])
    columns = ("--question", "frage", "--answer", "antwort")
    assert run("qa", "--from", file, "--out", tmp_path / "out", *columns, *names) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_line_separator_inside_a_question_ends_no_line(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('\ufeff{"question": "a\u2028b", "answer": "#### 1"}\n', encoding="utf-8")
    (record,) = records(file)
    assert record.fields["question"] == "a\u2028b"


def test_files_without_a_split_beside_others_are_left_out_and_named(tmp_path, capsys):
    original_repository(tmp_path / "in", "gsm8k")
    assert run("gsm8k", "--from", tmp_path / "in", "--out", tmp_path / "out") == 0
    text = capsys.readouterr().out
    for name in ("example_model_solutions", "train_socratic", "test_socratic"):
        assert f"{name}.jsonl" in text.split("left out")[1]


def test_one_split_alone_is_written_and_said(tmp_path, capsys):
    jsonl(tmp_path / "test.jsonl", GSM8K["test"])
    assert run("gsm8k", "--from", tmp_path / "test.jsonl", "--out", tmp_path / "out") == 0
    assert "only this one is written" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test.parquet"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_write_leaves_the_old_files_and_no_half_one(tmp_path, monkeypatch, failing):
    plain_files(tmp_path / "in", "gsm8k")
    convert(TASKS["gsm8k"], [tmp_path / "in"], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    real, calls = pq.write_table, []

    def broken(table, where):
        calls.append(where)
        if len(calls) == failing:
            where.write_bytes(b"half")
            raise OSError("disk full")
        real(table, where)

    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        convert(TASKS["gsm8k"], [tmp_path / "in"], tmp_path / "out", instruction="other")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_table_shows_rows_and_the_longest_prompt(tmp_path, capsys):
    plain_files(tmp_path / "in", "gsm8k")
    out = tmp_path / "out"
    run("gsm8k", "--from", tmp_path / "in", "--out", out, "--instruction", "")
    # The longest question, and no instruction: "A car of $1,200,\ntwice?" has 16 + 1 + 6 letters.
    longest = len("A car of $1,200,") + 1 + len("twice?")
    assert re.search(
        rf"^train +3 +0 +{longest} characters  {re.escape(str(out))}/train.parquet$",
        capsys.readouterr().out,
        re.MULTILINE,
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_without_out_the_files_go_where_the_recipe_looks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    plain_files(tmp_path / "in", name)
    assert run(name, "--from", tmp_path / "in") == 0
    assert sorted((tmp_path / "home").rglob("*.parquet")) == [
        tmp_path / "home" / "data" / name / f"{split}.parquet" for split in ("test", "train")
    ]


def test_the_maker_of_a_file_is_told_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert locations.maker("~/data/math/x.parquet") == "verl-ext convert math --from FOLDER"
    assert locations.maker(f"{tmp_path}/data/gsm8k/test.parquet").startswith("verl-ext convert gsm")
    assert locations.maker("data/string_composition/val.parquet").startswith("verl-ext toy string")
    assert locations.maker("data/other/val.parquet") is None
    assert locations.maker("gsm8k/test.parquet") is None


def test_problems_of_one_file_each_come_in_the_order_of_their_numbers(tmp_path):
    one_file_a_problem(tmp_path, "math")
    files, _ = find([tmp_path / "MATH"], ("data",))
    train = [file.path.name for file in files if file.split == "train"]
    assert train == ["2.json", "10.json"]
