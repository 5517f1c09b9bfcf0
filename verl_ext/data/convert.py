"""Rows of public files in, verl's ``train.parquet`` and ``test.parquet`` out.

Nothing is written before everything has been read and checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from verl_ext.data.files import SPLITS, DataFile, find
from verl_ext.data.parquet import verl_schema, write_together
from verl_ext.data.records import records
from verl_ext.data.tasks import Example, Task

LEAKS = ("drop", "error", "keep")


@dataclass(frozen=True)
class Row:
    """A problem, where it comes from, and its number in the split as published, from 0."""

    index: int
    source: str
    example: Example

    @property
    def key(self) -> str:
        """The question without regard to white space: by it, two questions are the same."""
        return " ".join(self.example.question.split())


@dataclass
class Split:
    """What became of one split.

    Attributes:
        rows: what is kept.
        unreadable: error messages of the rows that were left out on request.
        leaked: training rows whose question also stands in the test split.
        repeated: rows that repeat a question of their own split; they are kept.
        longest_prompt: in characters, without the chat template.
        path: the file that was written.
    """

    rows: list[Row] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    leaked: int = 0
    repeated: int = 0
    longest_prompt: int = 0
    path: Path | None = None


@dataclass(frozen=True)
class Report:
    """The splits by name, and the files in which no split could be told."""

    splits: dict[str, Split]
    left_out: list[Path]


def convert(
    task: Task,
    paths: Sequence[Path],
    out_dir: Path,
    *,
    leaks: str = "drop",
    drop_unreadable: bool = False,
    instruction: str | None = None,
) -> Report:
    """Converts the public files below ``paths`` and shows a progress bar.

    Args:
        task: what the rows say.
        paths: folders and files.
        out_dir: the folder; made if it is not there, and files of these names are replaced.
        leaks: what happens to training rows whose question also stands in the test split: "drop"
            them, stop with an "error", or "keep" them. The test split is never changed.
        drop_unreadable: leave out rows that do not say what the task expects.
        instruction: stands below each question instead of the task's own.

    Returns:
        What was written, and what was not.

    Raises:
        FileNotFoundError: one of the paths is not there.
        ValueError: see :mod:`~verl_ext.data.files`, :mod:`~verl_ext.data.records` and the task;
            a file without rows; the same data twice; leaks, if asked; one split alone beside an
            older file of the other.
    """
    if leaks not in LEAKS:
        raise ValueError(f"leaks must be one of {', '.join(LEAKS)}, got {leaks!r}")
    files, left_out = find(paths, task.preferred)
    splits = _read(task, files, drop_unreadable)
    for name, split in splits.items():
        _refuse_copies(name, split.rows)
    _settle_leaks(splits, leaks)
    for name, split in splits.items():
        if not split.rows:
            raise ValueError(f"no row of {name} is left: {split.leaked} are in test too, "
                             f"{len(split.unreadable)} unreadable")  # fmt: skip
    _refuse_unchecked_counterpart(splits, out_dir)
    text = task.instruction if instruction is None else instruction
    tables = {
        name: [_verl_row(task, text, name, row) for row in split.rows]
        for name, split in splits.items()
    }
    strings = dict.fromkeys(("split", "question", *task.details), pa.string())
    written = write_together(out_dir, tables, verl_schema({"index": pa.int64(), **strings}))
    for name, split in splits.items():
        split.path = written[name]
        split.repeated = len(split.rows) - len({row.key for row in split.rows})
        split.longest_prompt = max(len(row["prompt"][0]["content"]) for row in tables[name])
    return Report(splits, left_out)


def _read(task: Task, files: Sequence[DataFile], drop_unreadable: bool) -> dict[str, Split]:
    splits = {name: Split() for name in SPLITS if any(file.split == name for file in files)}
    with tqdm(desc=task.name, unit=" rows", disable=None) as bar:
        for file in files:
            split = splits[file.split]
            empty = True
            for record in records(file.path):
                empty = False
                bar.update()
                index = len(split.rows) + len(split.unreadable)
                try:
                    split.rows.append(Row(index, file.source, task.read(record)))
                except ValueError as error:
                    if not drop_unreadable:
                        raise ValueError(f"{error} (--drop-unreadable leaves such rows out)") from (
                            error
                        )
                    split.unreadable.append(str(error))
            if empty:
                raise ValueError(f"{file.path}: there is no row in it")
    return splits


def _refuse_copies(name: str, rows: Sequence[Row]) -> None:
    """A source whose every question stands in the others is a second copy, or a part of one."""
    questions: dict[str, set[str]] = {}
    homes: dict[str, set[str]] = {}
    for row in rows:
        questions.setdefault(row.source, set()).add(row.key)
        homes.setdefault(row.key, set()).add(row.source)
    for source, keys in questions.items():
        if all(len(homes[key]) > 1 for key in keys):
            other = sorted(set.union(*(homes[key] for key in keys)) - {source})[0]
            raise ValueError(
                f"all {len(keys)} questions of {source} ({name}) stand in {other} too; name only "
                "one of them with --from"
            )


def _settle_leaks(splits: Mapping[str, Split], leaks: str) -> None:
    if set(splits) != set(SPLITS):
        return
    train, test = (splits[name] for name in SPLITS)
    tested = {row.key for row in test.rows}
    kept = [row for row in train.rows if row.key not in tested]
    train.leaked = len(train.rows) - len(kept)
    if train.leaked and leaks == "error":
        first = next(key for key in (row.key for row in train.rows) if key in tested)
        raise ValueError(
            f"{train.leaked} question(s) of train stand in test too, the first: {first[:80]!r}; "
            "--leaks drop takes them out of train"
        )
    if leaks == "drop":
        train.rows = kept


def _refuse_unchecked_counterpart(splits: Mapping[str, Split], out_dir: Path) -> None:
    for other in SPLITS:
        file = out_dir / f"{other}.parquet"
        if other not in splits and file.exists():
            (found,) = splits
            raise ValueError(
                f"there are only {found} rows, and {file} from before would not be checked for "
                f"questions of both; name the {other} files too, or another folder with --out"
            )


def _verl_row(task: Task, instruction: str, split: str, row: Row) -> dict[str, Any]:
    example = row.example
    content = f"{example.question}\n\n{instruction}" if instruction else example.question
    return {
        "data_source": task.data_source,
        "prompt": [{"role": "user", "content": content}],
        "ability": task.ability,
        "reward_model": {"style": "rule", "ground_truth": example.ground_truth},
        "extra_info": {
            "index": row.index,
            "split": split,
            "question": example.question,
            **{name: example.details[name] for name in task.details},
        },
    }
