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


def test_items_of_a_json_list_are_numbered_from_1(tmp_path):
    file = tmp_path / "train.json"
    file.write_text('[{"a": 1}, {"a": 2}]', encoding="utf-8")
    assert [each.where for each in records(file)] == [f"{file}, item {n}" for n in (1, 2)]


@pytest.mark.parametrize(
    ("digits", "shown"),
    [(3, "9" * 3), (60, "9" * 60), (61, "9" * 57 + "..."), (99, "9" * 57 + "...")],
)
def test_a_value_of_more_than_60_characters_is_cut_off_in_what_is_said_of_it(digits, shown):
    with pytest.raises(ValueError, match="line 3: 'x' must be text") as raised:
        Record("line 3", {"x": int("9" * digits)}).text("x")
    assert str(raised.value) == f"line 3: 'x' must be text, got {shown}"
