"""Sequences that are in no batch, through a partition of verl's queue to the workers and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions
from verl.workers.utils.padding import response_from_nested

PARTITION = "verl_ext_teacher"
PADDING_TOKENS = 8  # of the prompt of a row that is only there for the numbers to divide


@dataclass(frozen=True)
class Reading:
    """A prompt and the response that continues it.

    Attributes:
        prompt: (tokens,) ids.
        response: (tokens,) ids.
        sampled: (tokens of the response,) 1 where the policy sampled, 0 on a tool's answer.
    """

    prompt: Tensor
    response: Tensor
    sampled: Tensor

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def response_log_probs(
    ask: Callable[[KVBatchMeta], Any],
    field: str,
    readings: Sequence[Reading],
    *,
    ranks: int,
    rows_multiple: int,
    extra_info: dict[str, Any],
) -> list[Tensor]:
    """Lets the workers read, and gives back what they say of each response.

    The rows are shared out so that each rank has about as many tokens; where they do not divide,
    short rows that say nothing are added. The partition is empty afterwards, also after an error.

    Args:
        ask: a worker group's method, which writes the field.
        field: jagged, one number per token of prompt and response, about the next token.
        readings: at least one.
        ranks: data-parallel ones.
        rows_multiple: of the rows of each rank.
        extra_info: for the workers, beside the rows.

    Returns:
        (tokens of the response,) of each reading.
    """
    every = ranks * rows_multiple
    rows = [*readings, *[_padding(readings[0])] * (-len(readings) % every)]
    keys = [f"{PARTITION}_{row}" for row in range(len(rows))]
    tags = [{"seq_len": len(row), "status": "success"} for row in rows]
    parts = get_seqlen_balanced_partitions([len(row) for row in rows], ranks, equal_size=True)
    try:
        tq.kv_batch_put(keys=keys, partition_id=PARTITION, fields=_fields(rows), tags=tags)
        order = [row for part in parts for row in part]
        ask(
            KVBatchMeta(
                keys=[keys[row] for row in order],
                tags=[tags[row] for row in order],
                partition_id=PARTITION,
                extra_info=dict(extra_info),
            )
        )
        data = tq.kv_batch_get(
            keys=keys[: len(readings)],
            partition_id=PARTITION,
            select_fields=[field, "response_mask"],
        )
        return list(response_from_nested(data[field], data["response_mask"]).unbind())
    finally:
        tq.kv_clear(keys=keys, partition_id=PARTITION)


def _padding(like: Reading) -> Reading:
    nothing = torch.zeros_like(like.sampled[:1])
    return Reading(like.prompt[:PADDING_TOKENS], like.response[:1], nothing)


def _fields(rows: Sequence[Reading]) -> TensorDict:
    """What the engines ask of a batch, jagged."""
    columns = {
        "input_ids": [torch.cat([row.prompt, row.response]) for row in rows],
        "position_ids": [torch.arange(len(row)) for row in rows],
        "prompts": [row.prompt for row in rows],
        "responses": [row.response for row in rows],
        "response_mask": [row.sampled for row in rows],
        "loss_mask": [row.sampled for row in rows],
    }
    nested = {
        name: torch.nested.as_nested_tensor(values, layout=torch.jagged)
        for name, values in columns.items()
    }
    return TensorDict(nested, batch_size=len(rows))
