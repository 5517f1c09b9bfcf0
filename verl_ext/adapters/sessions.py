"""Rows of a V1 batch and the sessions they belong to.

A session is one sampled attempt at a prompt. An agent loop may cut it into several outputs, each a
row of its own with the key ``<uid>_<session>_<output>``; verl appends further rows that belong to
no session, so that the batch divides. A statistic over rows would count long sessions several
times and verl's rows once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sessions:
    """Which rows are whose.

    Attributes:
        outputs: (sessions, most outputs of a session) row numbers in the order of the outputs,
            -1 behind a session's last one.
        rows: number of rows of the batch.
    """

    outputs: Tensor
    rows: int

    @property
    def last(self) -> Tensor:
        """(sessions,) row of each session's last output, which carries the outcome."""
        count = (self.outputs >= 0).sum(-1, keepdim=True)
        return self.outputs.gather(1, count - 1).squeeze(1)

    def labels(self, values: Sequence[Any] | Tensor) -> list[Any]:
        """One label a row, a list or a tensor, to one a session."""
        # Elements of a tensor are hashed by identity: each would be a label of its own.
        plain = values.tolist() if isinstance(values, Tensor) else values
        return [plain[row] for row in self.last.tolist()]

    def outcomes(self, scores: Tensor) -> Tensor:
        """(rows, time) to (sessions,): what the last output has been given, in double precision."""
        return scores[self.last].sum(-1, dtype=torch.float64)

    def merged(self, values: Tensor) -> Tensor:
        """(rows, time) to (sessions, outputs x time): a session's outputs side by side.

        Where there is no output the values are 0.
        """
        there = (self.outputs >= 0).unsqueeze(-1)
        return torch.where(there, values[self.outputs.clamp_min(0)], 0).flatten(1)

    def split(self, values: Tensor) -> Tensor:
        """The reverse of :meth:`merged`; rows of no session get 0."""
        count, most = self.outputs.shape
        parts = values.reshape(count, most, values.shape[1] // most)
        there = self.outputs >= 0
        result = values.new_zeros(self.rows, parts.shape[-1])
        result[self.outputs[there]] = parts[there]
        return result

    def broadcast(self, scores: Tensor) -> Tensor:
        """(sessions,) to (rows,): a session's number for each of its outputs, others 0."""
        return self.split(scores.unsqueeze(-1).expand(self.outputs.shape)).squeeze(-1)


def session_number(key: str) -> int:
    """Of a row's session among its prompt's, in the order in which verl has begun them.

    A batch holds a prompt's rows in the order in which they were done: short ones first.
    """
    return int(key.rsplit("_", 2)[1])


def sessions(keys: Sequence[str], tags: Sequence[Mapping[str, Any]]) -> Sessions:
    """Reads the sessions from a batch's keys; rows tagged as padding belong to none."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row, (key, tag) in enumerate(zip(keys, tags, strict=True)):
        if not tag.get("is_padding", False):
            session, _, output = key.rpartition("_")
            found.setdefault(session, []).append((int(output), row))
    most = max(map(len, found.values()), default=1)
    outputs = torch.full((len(found), most), -1)
    for place, members in enumerate(found.values()):
        outputs[place, : len(members)] = torch.tensor([row for _, row in sorted(members)])
    return Sessions(outputs, len(keys))
