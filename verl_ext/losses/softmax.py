"""The softmax of many tokens in two numbers each, read off the logits piece by piece."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from verl_ext.losses.chunks import TokenRows, arithmetic
from verl_ext.losses.vocabulary import (
    BLOCK,
    VocabShard,
    local_ids,
    merged_top,
    reduced,
    summed,
    top_ids,
)


@dataclass(frozen=True)
class Distributions:
    """The softmax of the selected rows: p_v = exp(z_v − peak) / total.

    Two numbers and not their log-sum-exp: rounded to float32, that one would be off by 1e-6.
    """

    peak: Float[Tensor, " selected"]
    total: Float[Tensor, " selected"]

    def log_probs(self, logits: Float[Tensor, "selected some"]) -> Float[Tensor, "selected some"]:
        """log p of some logits of each row, in float64."""
        log_total = self.total.double().log().unsqueeze(-1)
        return logits.double() - self.peak.double().unsqueeze(-1) - log_total

    def all_log_probs(
        self, logits: Float[Tensor, "piece vocab"], piece: slice
    ) -> Float[Tensor, "piece vocab"]:
        """log p of all logits of a piece, in a new buffer."""
        shifted = logits - self.peak[piece].unsqueeze(-1)
        return shifted.sub_(self.total[piece].log().unsqueeze(-1))


def scan(
    logits: Float[Tensor, "tokens vocab"],
    tokens: TokenRows,
    top_k: int | None,
    vocab: VocabShard | None,
) -> tuple[Distributions, Int64[Tensor, "selected top_k"]]:
    """Reads the selected rows once: their softmax's two numbers, and their K most likely tokens.

    Without a K there are none.
    """
    size = logits.shape[-1]
    dtype = arithmetic(logits.dtype)
    peak = logits.new_empty(tokens.count, dtype=dtype)
    total = torch.empty_like(peak)
    local_k = 0 if top_k is None else min(top_k, size)
    ids = torch.empty(tokens.count, local_k, dtype=torch.int64, device=logits.device)
    buffer = logits.new_empty(min(tokens.chunk, tokens.count), size, dtype=dtype)
    for piece in tokens.pieces():
        rows = tokens.take(logits, piece)
        shifted = buffer[: len(rows)]
        if rows.dtype != dtype:
            rows = shifted.copy_(rows)
        peak[piece], blocks = _peaks(rows)
        if local_k:
            ids[piece] = top_ids(rows, blocks, local_k)
        # A shard may hold nothing but −inf: then 0 keeps −inf − peak from being NaN.
        floor = peak[piece].masked_fill(peak[piece] == -torch.inf, 0).unsqueeze(-1)
        total[piece] = torch.sub(rows, floor, out=shifted).exp_().sum(-1)
    if vocab is not None:
        whole = reduced(peak.clone(), vocab, dist.ReduceOp.MAX)
        total = summed(total * (peak - whole).exp_(), vocab)
        peak = whole
    if top_k is None:
        return Distributions(peak, total), ids
    values = tokens.gather(logits, ids).to(dtype)
    return Distributions(peak, total), merged_top(values, ids, top_k, vocab)


def _peaks(
    rows: Float[Tensor, "piece vocab"],
) -> tuple[Float[Tensor, " piece"], Float[Tensor, "piece blocks"] | None]:
    """The largest logit of each row, and of each block of neighbours if there are any."""
    whole = rows.shape[-1] // BLOCK * BLOCK
    if not whole:
        return rows.amax(-1), None
    blocks = rows[:, :whole].view(len(rows), whole // BLOCK, BLOCK).amax(-1)
    peak = blocks.amax(-1)
    if whole < rows.shape[-1]:
        peak = torch.maximum(peak, rows[:, whole:].amax(-1))
    return peak, blocks


def log_probs_of(
    logits: Float[Tensor, "tokens vocab"],
    ids: Int64[Tensor, "selected some"],
    distributions: Distributions,
    tokens: TokenRows,
    vocab: VocabShard | None,
) -> Float[Tensor, "selected some"]:
    """log p of some tokens of each selected row, in float64, whichever shard holds them."""
    local, here = local_ids(ids, logits.shape[-1], vocab)
    values = tokens.gather(logits, local).to(arithmetic(logits.dtype))
    if here is not None:
        values = summed(values.masked_fill_(~here, 0), vocab)
    return distributions.log_probs(values)
