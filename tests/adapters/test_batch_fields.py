"""Reading a batch's fields: as few round trips as can be."""

from types import SimpleNamespace

import pytest
import torch
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta

from verl_ext.adapters.trainer import batch_fields


@pytest.fixture
def reads(monkeypatch):
    """Answers with the number of the read; records what was asked."""
    asked = []

    def get(keys, partition_id, select_fields):
        asked.append(list(select_fields))
        number = torch.full((len(keys), 1), float(len(asked)))
        labels = NonTensorStack(*["t"] * len(keys))
        values = {name: labels if name == "task" else number for name in select_fields}
        return TensorDict(values, batch_size=len(keys))

    def put(keys, partition_id, fields):
        asked.append(sorted(fields.keys()))
        return KVBatchMeta(keys=keys, tags=[{} for _ in keys], partition_id=partition_id)

    monkeypatch.setattr(batch_fields, "tq", SimpleNamespace(kv_batch_get=get, kv_batch_put=put))
    return asked


def batch(*keys):
    return KVBatchMeta(keys=list(keys), tags=[{} for _ in keys], partition_id="train")


def test_a_field_is_read_once_and_missing_ones_together(reads):
    fields = batch_fields.BatchFields()
    fields.get(batch("a", "b"), ["x", "task", "x"])
    found = fields.get(batch("a", "b"), ["x", "y", "task", "z"])
    assert reads == [["x", "task"], ["y", "z"]]
    assert (found["x"] == 1).all()
    assert found["task"] == ["t", "t"]


def test_another_batch_is_read_anew(reads):
    fields = batch_fields.BatchFields()
    fields.get(batch("a"), ["x"])
    assert (fields.get(batch("b"), ["x"])["x"] == 2).all()
    fields.clear()
    fields.get(batch("b"), ["x"])
    assert len(reads) == 3


def test_what_verl_rewrote_is_read_anew_and_what_we_wrote_is_known(reads):
    fields = batch_fields.BatchFields()
    fields.get(batch("a"), ["x", "y"])
    fields.forget("x", "never read")
    fields.get(batch("a"), ["x", "y"])
    fields.put(batch("a"), {"y": torch.tensor([[7.0]])})
    assert fields.get(batch("a"), ["y"])["y"].item() == 7
    assert reads == [["x", "y"], ["x"], ["y"]]
