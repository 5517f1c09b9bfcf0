"""Causal attention over sequences of different lengths, in plain torch.

Pure tensor code for the CPU platform's Megatron layers: no Megatron, no process group.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Position of a padding slot: as a key it is after every token; as a query it sees all keys (its
# output is dropped), so that no row of the softmax is empty.
_PADDING = 2**62


@dataclass(frozen=True)
class Sequences:
    """Where the tokens of one rank stand.

    Attributes:
        lengths: tokens of each sequence over all context-parallel ranks, padding included. With
            more than one rank each is a multiple of twice their number.
        rank: this context-parallel rank.
        ranks: how many share every sequence. Rank r of n holds chunks r and 2n-1-r of the 2n equal
            chunks of a sequence, so that causal attention costs all ranks the same (zigzag).
    """

    lengths: tuple[int, ...]
    rank: int = 0
    ranks: int = 1

    def positions(self, rank: int) -> list[Tensor]:
        """Positions within its sequence of each token that ``rank`` holds, sequence by sequence."""
        if self.ranks == 1:
            return [torch.arange(length) for length in self.lengths]
        result = []
        for length in self.lengths:
            chunk, rest = divmod(length, 2 * self.ranks)
            if rest:
                raise ValueError(f"{length} tokens do not split over {self.ranks} ranks")
            chunks = torch.arange(length).reshape(2 * self.ranks, chunk)
            result.append(torch.cat([chunks[rank], chunks[2 * self.ranks - 1 - rank]]))
        return result


def attend(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, *, scale: float | None = None
) -> Tensor:
    """Each query attends to the keys of its own sequence up to its own position.

    Args:
        query: (this rank's tokens, heads, channels), sequence by sequence.
        key: (all ranks' tokens, key heads, channels), rank by rank, each in the order of its query.
            As many heads as the query or a divisor (grouped-query attention).
        value: as key.
        sequences: what the tokens are.
        scale: factor of the logits; one over the root of the channels if None.

    Returns:
        (this rank's tokens, heads, channels of value).
    """
    ranks = range(sequences.ranks)
    keys_at = _Grid([sequences.positions(rank) for rank in ranks], by_position=True)
    queries_at = _Grid([sequences.positions(sequences.rank)], by_position=False)
    q, k, v = queries_at.spread(query), keys_at.spread(key), keys_at.spread(value)
    mask = None  # one rank: query and key slots are positions, and torch's own causal mask holds
    if sequences.ranks > 1:
        visible = keys_at.position[:, None, :] <= queries_at.position[:, :, None]
        mask = visible[:, None].to(query.device)
    output = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return queries_at.collect(output)


class _Grid:
    """Flat tokens as a padded (sequence, slot) grid and back."""

    def __init__(self, positions: list[list[Tensor]], *, by_position: bool) -> None:
        """Lays out tokens given rank by rank, sequence by sequence.

        Args:
            positions: of each rank, of each sequence: the positions of its tokens.
            by_position: a token's slot is its position; otherwise its turn on its (one) rank.
        """
        self.row: Tensor = torch.cat(
            [torch.full_like(p, i) for rank in positions for i, p in enumerate(rank)]
        )
        flat = torch.cat([p for rank in positions for p in rank])
        turns = torch.cat([torch.arange(len(p)) for rank in positions for p in rank])
        self.slot = flat if by_position else turns
        self.shape = (len(positions[0]), int(self.slot.max()) + 1)
        self.position = torch.full(self.shape, _PADDING)
        self.position[self.row, self.slot] = flat

    def spread(self, tokens: Tensor) -> Tensor:
        """(tokens, heads, channels) to (sequence, heads, slot, channels)."""
        grid = tokens.new_zeros(*self.shape, *tokens.shape[1:])
        grid = grid.index_put((self.row.to(tokens.device), self.slot.to(tokens.device)), tokens)
        return grid.transpose(1, 2)

    def collect(self, grid: Tensor) -> Tensor:
        """(sequence, heads, slot, channels) back to (tokens, heads, channels)."""
        return grid.transpose(1, 2)[self.row.to(grid.device), self.slot.to(grid.device)]
