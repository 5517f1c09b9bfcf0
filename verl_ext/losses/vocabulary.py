"""A vocabulary in one piece or in shards: reductions and the most likely tokens.

Everything is written for a shard. ``vocab=None`` means that the shard is the whole vocabulary, and
then no process talks to another.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# The most likely tokens are looked for among the most likely blocks of this many neighbours.
BLOCK = 32
_LOW_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class VocabShard:
    """This process's part of a vocabulary that is split over a group, as in tensor parallelism.

    Attributes:
        group: the processes that hold the shards, in the order of their ranks; all shards have
            the same size.
        start: the id of this shard's first token in the whole vocabulary.
    """

    group: dist.ProcessGroup
    start: int

    @property
    def count(self) -> int:
        """The number of shards."""
        return dist.get_world_size(self.group)

    def require_size(self, size: int) -> None:
        """Refuses, with a ValueError, a start that does not go with shards of this size."""
        expected = dist.get_rank(self.group) * size
        if self.start != expected:
            raise ValueError(
                f"vocab.start must be {expected}, the rank in the group times the {size} logits of "
                f"a shard, got {self.start}: shards are of equal size and in the order of the ranks"
            )


def reduced(values: Tensor, vocab: VocabShard | None, operation: dist.ReduceOp.RedOpType) -> Tensor:
    """The sum or maximum over the shards, in place."""
    if vocab is not None:
        dist.all_reduce(values, op=operation, group=vocab.group)
    return values


def summed(values: Tensor, vocab: VocabShard | None) -> Tensor:
    """The sum over the shards, in place."""
    return reduced(values, vocab, dist.ReduceOp.SUM)


def local_ids(
    ids: Int64[Tensor, "*axes"], size: int, vocab: VocabShard | None
) -> tuple[Int64[Tensor, "*axes"], Bool[Tensor, "*axes"] | None]:
    """Ids within this shard, 0 for those of other shards, and which are here (None: all)."""
    if vocab is None:
        return ids, None
    local = ids - vocab.start
    here = (local >= 0) & (local < size)
    return local.masked_fill_(~here, 0), here


def merged_top(
    values: Float[Tensor, "tokens top_k"],
    ids: Int64[Tensor, "tokens top_k"],
    top_k: int,
    vocab: VocabShard | None,
) -> Int64[Tensor, "tokens top_k"]:
    """The most likely tokens of the whole vocabulary, from those of each shard."""
    if vocab is None:
        return ids
    all_values = [torch.empty_like(values) for _ in range(vocab.count)]
    all_ids = [torch.empty_like(ids) for _ in range(vocab.count)]
    dist.all_gather(all_values, values, group=vocab.group)
    dist.all_gather(all_ids, ids + vocab.start, group=vocab.group)
    return _first(torch.cat(all_values, -1), torch.cat(all_ids, -1), top_k)


def top_ids(
    logits: Float[Tensor, "tokens vocab"],
    blocks: Float[Tensor, "tokens blocks"] | None,
    top_k: int,
) -> Int64[Tensor, "tokens top_k"]:
    """The ids of the K largest logits, largest first; of equal logits the lowest id first.

    The order among equals makes the support the same on every device, for every chunk and every
    sharding: in bfloat16 many logits are equal, and a plain top-k takes any of them.

    Args:
        logits: of a shard.
        blocks: the largest logit of each block of ``BLOCK`` neighbours, or None. A token among the
            K first lies in one of the K first blocks, or there would be K blocks before its own
            that each hold a token before it.
        top_k: K, at most the size of the shard.

    Returns:
        Ids within the shard.
    """
    size = logits.shape[-1]
    if blocks is None or blocks.shape[-1] < 2 * top_k:
        ids = torch.arange(size, device=logits.device).expand(logits.shape)
        return _first(logits, ids, top_k)
    numbers = torch.arange(blocks.shape[-1], device=logits.device).expand(blocks.shape)
    best = _first(blocks, numbers, top_k).unsqueeze(-1) * BLOCK
    ids = (best + torch.arange(BLOCK, device=logits.device)).flatten(1)
    rest = torch.arange(blocks.shape[-1] * BLOCK, size, device=logits.device)
    ids = torch.cat([ids, rest.expand(len(ids), -1)], -1)
    return _first(logits.gather(-1, ids), ids, top_k)


def _first(
    values: Float[Tensor, "tokens candidates"], ids: Int64[Tensor, "tokens candidates"], top_k: int
) -> Int64[Tensor, "tokens top_k"]:
    """The ids of the K largest values, lowest id first among equals."""
    if values.dtype == torch.float64:  # no room beside it for an id in one integer
        order = ids.argsort(-1)
        values, ids = values.gather(-1, order), ids.gather(-1, order)
        order = values.sort(dim=-1, descending=True, stable=True).indices
        return ids.gather(-1, order[..., :top_k])
    # The bits of a float, read as an integer, sort like the float once those of negative numbers
    # are turned round. Adding 0 makes -0 equal to 0.
    bits = (values.float() + 0.0).view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (bits.long() << 32) | (_LOW_WORD - ids)
    return _LOW_WORD - (keys.topk(top_k, dim=-1).values & _LOW_WORD)


def shared(first: Int64[Tensor, "tokens top_k"], second: Int64[Tensor, "tokens top_k"]) -> Tensor:
    """The share of K distinct ids that two lists have in common, per token."""
    ids = torch.cat([first, second], -1).sort(-1).values
    return (ids[:, 1:] == ids[:, :-1]).sum(-1) / first.shape[-1]
