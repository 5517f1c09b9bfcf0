"""verl's columns, and parquet files that are either whole or not there."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def verl_schema(extra_info: Mapping[str, pa.DataType]) -> pa.Schema:
    """Returns the schema of the rows that verl's dataset class and reward managers read.

    Args:
        extra_info: the fields of that column, by name.
    """
    message = pa.struct({"role": pa.string(), "content": pa.string()})
    return pa.schema(
        {
            "data_source": pa.string(),
            "prompt": pa.list_(message),
            "ability": pa.string(),
            "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
            "extra_info": pa.struct(dict(extra_info)),
        }
    )


def write_together(
    out_dir: Path, rows: Mapping[str, Sequence[dict[str, Any]]], schema: pa.Schema
) -> dict[str, Path]:
    """Writes ``NAME.parquet`` for each name; all are complete before any replaces its predecessor.

    Args:
        out_dir: the folder; made if it is not there.
        rows: the rows of each file, by the file's name without its ending.
        schema: of every file.

    Returns:
        The paths, by the same names.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = {name: out_dir / f"{name}.parquet" for name in rows}
    parts = {name: out_dir / f".{name}.parquet.{os.getpid()}.part" for name in rows}
    try:
        for name, part in parts.items():
            pq.write_table(pa.Table.from_pylist(list(rows[name]), schema=schema), part)
        for name, part in parts.items():
            os.replace(part, paths[name])
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return paths
