"""Rows of a file, each with its place."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl_ext.data.records import Record, records


def test_rows_of_a_parquet_file_are_numbered_from_1(tmp_path):
    file = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([{"a": 1}, {"a": 2}, {"a": 3}]), file)
    assert [each.where for each in records(file)] == [f"{file}, row {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("fields", "found"), [({"a": 1, "b": 2}, "found a, b"), ({}, "found nothing")]
)
def test_a_row_without_the_key_says_what_it_has(fields, found):
    with pytest.raises(ValueError, match=f"line 3: expected the key 'x' or 'y', {found}$"):
        Record("line 3", fields).text("x", "y")
