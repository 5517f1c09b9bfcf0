"""GSM8K and MATH in small, in every layout in which they are published."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.cli import main as command

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
