"""Rows of JSON, JSONL and parquet files, each with the place it stands at.

An error names the file and the line (JSONL), row (parquet) or item (a JSON list), counted from 1.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Record:
    """One row as it stands in a file.

    Attributes:
        where: file and line, for error messages.
        fields: the row's values by name.
    """

    where: str
    fields: dict[str, Any]

    def text(self, *names: str) -> str:
        """Returns the first of these fields that is there, which must be text and not blank.

        Raises:
            ValueError: there is none of them, or it is not text, or blank.
        """
        for name in names:
            value = self.fields.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise ValueError(f"{self.where}: '{name}' must be text, got {_short(value)}")
            if not value.strip():
                raise ValueError(f"{self.where}: '{name}' is blank")
            return value
        wanted = " or ".join(f"'{name}'" for name in names)
        found = ", ".join(self.fields) or "nothing"
        raise ValueError(f"{self.where}: expected the key {wanted}, found {found}")


def records(file: Path) -> Iterator[Record]:
    """Yields the rows of a file, by its ending one of ``SUFFIXES``, in order.

    A ``.json`` file holds one object or a list of objects; blank lines of a ``.jsonl`` file count
    but yield nothing.

    Raises:
        ValueError: the file cannot be read as what its ending says, or a row is not an object.
    """
    if file.suffix == ".parquet":
        return _parquet(file)
    return _jsonl(file) if file.suffix == ".jsonl" else _json(file)


def _jsonl(file: Path) -> Iterator[Record]:
    with file.open("rb") as lines:  # bytes: only \n ends a line, not the Unicode separators
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{file}, line {number}"
                yield Record(where, _object(where, _parsed(where, line)))


def _json(file: Path) -> Iterator[Record]:
    value = _parsed(str(file), file.read_bytes())
    if isinstance(value, list):
        for number, item in enumerate(value, start=1):
            where = f"{file}, item {number}"
            yield Record(where, _object(where, item))
    else:
        yield Record(str(file), _object(str(file), value))


def _parquet(file: Path) -> Iterator[Record]:
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(f"{file}, row {number}", fields)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{file}, after row {number}: not a whole parquet file ({error}). If it is a Git LFS "
            "pointer of about 130 bytes, fetch the file itself: git lfs pull"
        ) from error


def _parsed(where: str, text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: expected UTF-8 text ({error})") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON ({error})") from error


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {_short(value)}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
