"""Files as verl reads them."""

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.data.parquet import write_together


def test_a_file_has_the_schema_that_is_asked_for_where_no_row_shows_it(tmp_path):
    schema = pa.schema({"number": pa.int32(), "text": pa.string()})
    rows = {"train": [{"number": 1, "text": None}], "test": []}
    paths = write_together(tmp_path / "out", rows, schema)
    for name, path in paths.items():
        assert path == tmp_path / "out" / f"{name}.parquet"
        assert pq.read_schema(path) == schema
    assert pq.read_table(paths["train"]).to_pylist() == rows["train"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "test.parquet",
        "train.parquet",
    ]
