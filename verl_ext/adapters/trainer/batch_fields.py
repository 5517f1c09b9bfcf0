"""The fields of the batch in hand, each read once: a read is a round trip through verl's queue."""

from collections.abc import Iterable, Mapping
from typing import Any

import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta


class BatchFields:
    """Remembers what was read of the last batch, until another one comes."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._known: dict[str, Any] = {}

    def get(self, batch: KVBatchMeta, names: Iterable[str]) -> dict[str, Any]:
        """Reads what is not known yet, in one go.

        Args:
            batch: whose rows.
            names: of the fields.

        Returns:
            Name -> nested tensor, or a list for labels, in the order of ``batch.keys``.
        """
        wanted = list(dict.fromkeys(names))
        if batch.keys != self._keys:
            self._keys, self._known = list(batch.keys), {}
        missing = [name for name in wanted if name not in self._known]
        if missing:
            data = tq.kv_batch_get(
                keys=batch.keys, partition_id=batch.partition_id, select_fields=missing
            )
            for name in missing:
                value = data[name]
                self._known[name] = value if isinstance(value, Tensor) else list(value)
        return {name: self._known[name] for name in wanted}

    def forget(self, *names: str) -> None:
        """Drops what somebody else has rewritten."""
        for name in names:
            self._known.pop(name, None)

    def clear(self) -> None:
        """Lets the batch go; its tensors are large."""
        self._keys, self._known = [], {}

    def put(self, batch: KVBatchMeta, fields: Mapping[str, Tensor]) -> KVBatchMeta:
        """Writes nested tensors; they are known from then on."""
        self._known.update(fields)
        return tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict(dict(fields), batch_size=len(batch)),
        )
