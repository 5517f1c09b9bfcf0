"""``verl-ext convert``: every public layout, what comes out, and what is refused in which words."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.cli import main as command
from verl_ext.data import locations
from verl_ext.data.convert import convert
from verl_ext.data.files import find
from verl_ext.data.records import Record, records
from verl_ext.data.tasks import TASKS, last_boxed, read_gsm8k

GSM8K = {
    "train": [
        {"question": "Two apples and 2 more?", "answer": "2+2=<<2+2=4>>4\n#### 4"},
        {"question": "A car of $1,200,\ntwice?", "answer": "It costs 2400.\n#### 2,400"},
        {"question": "Five less than 2?", "answer": "2-5=-3\n#### -3"},
    ],
    "test": [{"question": "How many legs has a cat?", "answer": "Four.\n#### 4"}],
}
MATH = {
    "train": [
        {
            "problem": "Halve $1$.",
            "level": "Level 1",
            "type": "Prealgebra",
            "solution": "First $\\boxed{2}$? No: $\\boxed{\\frac{1}{2}}$.",
        },
        {
            "problem": "Name a prime.",
            "level": "Level ?",
            "type": "Number Theory",
            "solution": "It is $\\boxed 5$.",
        },
    ],
    "test": [
        {
            "problem": "Is $i$ real?",
            "level": "Level 5",
            "type": "Counting & Probability",
            "solution": "$\\fbox{\\text{no}}$",
        }
    ],
}
PUBLIC = {"gsm8k": GSM8K, "math": MATH}
TRUTHS = {
    "gsm8k": {"train": ["4", "2400", "-3"], "test": ["4"]},
    "math": {"train": ["\\frac{1}{2}", "5"], "test": ["\\text{no}"]},
}


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(folder, split):
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


def run(*arguments):
    return command.main(["convert", *map(str, arguments)])


def original_repository(folder, name):
    """openai/grade-school-math as cloned; it also holds other versions and model solutions."""
    data = folder / "grade_school_math" / "data"
    for split in ("train", "test"):
        jsonl(data / f"{split}.jsonl", GSM8K[split])
        other = [{**row, "answer": "Q? ** A. \n#### 0"} for row in GSM8K[split]]
        jsonl(data / f"{split}_socratic.jsonl", other)
    jsonl(data / "example_model_solutions.jsonl", [{"question": "?", "175b": "!"}])


def hub_snapshot(folder, name):
    """The parquet files of the hub, beside folders with other versions or parts of the same."""
    chosen = {"gsm8k": "main", "math": "data"}[name]
    other = {"gsm8k": "socratic", "math": "algebra"}[name]
    for split in ("train", "test"):
        parquet(folder / chosen / f"{split}-00000-of-00001.parquet", PUBLIC[name][split])
        parquet(folder / other / f"{split}-00000-of-00001.parquet", PUBLIC[name][split][:1])
    (folder / "README.md").write_text("a card")
    jsonl(folder / ".cache" / "train.jsonl", [{"not": "data"}])


def hub_cache(folder, name):
    """The hub's own cache: files are links to nameless blobs."""
    source = folder / "source"
    hub_snapshot(source, name)
    for number, file in enumerate(sorted(source.rglob("*.parquet"))):
        blob = folder / "cache" / "blobs" / str(number)
        blob.parent.mkdir(parents=True, exist_ok=True)
        file.rename(blob)
        link = folder / "cache" / "snapshots" / "abc" / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (source / ".cache" / "train.jsonl").unlink()


def converted_by_the_hub(folder, name):
    """The hub's parquet branch: all/train/0000.parquet beside the parts."""
    chosen = {"gsm8k": "main", "math": "all"}[name]
    other = {"gsm8k": "socratic", "math": "algebra"}[name]
    for split in ("train", "test"):
        parquet(folder / chosen / split / "0000.parquet", PUBLIC[name][split])
        parquet(folder / other / split / "0000.parquet", PUBLIC[name][split][:1])


def subjects_alone(folder, name):
    """A mirror that has one folder for each subject, and no other."""
    for number, row in enumerate(MATH["train"]):
        parquet(folder / f"subject_{number}" / "train-00000-of-00001.parquet", [row])
    parquet(folder / "subject_0" / "test-00000-of-00001.parquet", MATH["test"])


def shards(folder, name):
    train = PUBLIC[name]["train"]
    jsonl(folder / ".cache" / "train.jsonl", [{"not": "data"}])
    parquet(folder / "train-00000-of-00002-a09b74b3ef9c3b56.parquet", train[:1])
    parquet(folder / "train-00001-of-00002-a09b74b3ef9c3b56.parquet", train[1:])
    parquet(folder / "test-00000-of-00001-b09b74b3ef9c3b56.parquet", PUBLIC[name]["test"])


def plain_files(folder, name):
    jsonl(folder / f"{name}_train.jsonl", PUBLIC[name]["train"])
    (folder / f"{name}_test.json").write_text(json.dumps(PUBLIC[name]["test"]))


def one_file_a_problem(folder, name):
    """Hendrycks: MATH/train/SUBJECT/NUMBER.json."""
    for split, rows in MATH.items():
        for number, row in zip((2, 10), rows, strict=False):
            subject = folder / "MATH" / split / "algebra"
            subject.mkdir(parents=True, exist_ok=True)
            (subject / f"{number}.json").write_text(json.dumps(row))


LAYOUTS = [
    ("gsm8k", original_repository),
    *[(name, layout) for name in PUBLIC for layout in (hub_snapshot, hub_cache)],
    *[(name, layout) for name in PUBLIC for layout in (converted_by_the_hub, shards, plain_files)],
    ("math", one_file_a_problem),
    ("math", subjects_alone),
]


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


BROKEN = [
    ("gsm8k", {"question": "x"}, "expected the key 'answer', found question"),
    ("gsm8k", {"question": "x", "answer": "It is 4."}, "expected '#### 42' at the end"),
    ("gsm8k", {"question": "x", "answer": "#### four"}, "one number behind '####', got 'four'"),
    ("gsm8k", {"question": "x", "answer": "#### 3, 4"}, "one number behind '####', got '3, 4'"),
    ("gsm8k", {"question": " ", "answer": "#### 4"}, "'question' must be text, got ' '"),
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


def test_a_line_separator_inside_a_question_ends_no_line(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('\ufeff{"question": "a\u2028b", "answer": "#### 1"}\n', encoding="utf-8")
    (record,) = records(file)
    assert record.fields["question"] == "a\u2028b"


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


def test_files_without_a_split_beside_others_are_left_out_and_named(tmp_path, capsys):
    original_repository(tmp_path / "in", "gsm8k")
    assert run("gsm8k", "--from", tmp_path / "in", "--out", tmp_path / "out") == 0
    text = capsys.readouterr().out
    for name in ("example_model_solutions", "train_socratic", "test_socratic"):
        assert f"{name}.jsonl" in text.split("left out")[1]


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


def test_one_split_alone_is_written_and_said(tmp_path, capsys):
    jsonl(tmp_path / "test.jsonl", GSM8K["test"])
    assert run("gsm8k", "--from", tmp_path / "test.jsonl", "--out", tmp_path / "out") == 0
    assert "only this one is written" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test.parquet"]


def test_one_split_beside_an_older_file_of_the_other_is_refused(leaky, tmp_path, capsys):
    run("gsm8k", "--from", leaky, "--out", tmp_path / "out")
    assert run("gsm8k", "--from", leaky / "train.jsonl", "--out", tmp_path / "out") == 2
    assert "test.parquet from before would not be checked" in capsys.readouterr().err
    assert len(read(tmp_path / "out", "train")) == 3


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


@given(number=st.integers(-(10**9), 10**9), currency=st.sampled_from(["", "$"]))
def test_any_whole_number_is_read_with_and_without_separators(number, currency):
    for written in (f"{number}", f"{number:,}", f"{currency}{number:,}."):
        fields = {"question": "?", "answer": f"#### 7\nso\n#### {written} "}
        assert read_gsm8k(Record("here", fields)).ground_truth == str(number)


BALANCED = st.recursive(
    st.text(alphabet="x1\\ $.", min_size=1, max_size=4),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | inner.map(lambda text: "{" + text + "}")
    ),
    max_leaves=8,
)


@given(content=BALANCED, before=BALANCED, after=BALANCED, command=st.sampled_from(["box", "fbox"]))
def test_the_last_box_is_read_to_its_own_closing_brace(content, before, after, command):
    name = {"box": "\\boxed", "fbox": "\\fbox"}[command]
    text = f"{before}\\boxed{{{before}}}{name}{{{content}}}{after}"
    assert last_boxed(text) == content.strip()


@pytest.mark.parametrize(
    ("solution", "content"),
    [
        ("none", None),
        ("\\boxed{1", None),
        ("\\boxed {1}.", "1"),
        ("$x = \\boxed 5$ and $y$", "5"),
        ("\\boxed{\\left\\{1, \\frac{1}{2}\\right\\}}", "\\left\\{1, \\frac{1}{2}\\right\\}"),
        ("\\fbox{1} \\boxed{2}", "2"),
        ("\\boxed{2} \\fbox{1}", "1"),
    ],
)
def test_boxes_as_the_solutions_have_them(solution, content):
    assert last_boxed(solution) == content


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
        ({"frage": "Who?", "antwort": " "}, (), "line 3: 'antwort' must be text, got ' '"),
        ({"frage": "Who?", "antwort": 4}, (), "line 3: 'antwort' must be text, got 4"),
        ({"frage": "Who?"}, (), "line 3: expected the key 'antwort', found frage"),
        (OWN[0], ("--answer", "reply"), "line 1: expected the key 'reply'"),
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


def test_an_unknown_way_with_leaks_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="leaks must be one of drop, error, keep, got 'warn'"):
        convert(TASKS["gsm8k"], [tmp_path / "none"], tmp_path / "out", leaks="warn")


def test_an_unreadable_row_stops_the_conversion_unless_it_may_be_left_out(tmp_path):
    file = jsonl(tmp_path / "train.jsonl", [*PUBLIC["gsm8k"]["train"], {"question": "x"}])
    with pytest.raises(ValueError, match="--drop-unreadable"):
        convert(TASKS["gsm8k"], [file], tmp_path / "out")
    assert convert(TASKS["gsm8k"], [file], tmp_path / "out", drop_unreadable=True)
