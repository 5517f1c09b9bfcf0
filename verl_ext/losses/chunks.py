"""Some rows of the logits, a few at a time, so that nothing of the logits' size is ever made."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Of one buffer. A processor's should stay in the caches of its threads; an accelerator's should be
# large enough to keep it busy.
THREAD_BYTES = 2 * 2**20
ACCELERATOR_BYTES = 256 * 2**20


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything shorter."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def default_chunk(logits: Float[Tensor, "tokens vocab"]) -> int:
    """How many rows fit into a buffer."""
    threads = torch.get_num_threads()
    budget = THREAD_BYTES * threads if logits.device.type == "cpu" else ACCELERATOR_BYTES
    return max(1, budget // (logits.shape[-1] * arithmetic(logits.dtype).itemsize))


@dataclass(frozen=True)
class TokenRows:
    """The rows of the logits that are worked on: all of them, or those that are named.

    Attributes:
        rows: strictly increasing row numbers, or None for all.
        count: how many.
        chunk: how many at a time.
    """

    rows: Int64[Tensor, " selected"] | None
    count: int
    chunk: int

    def pieces(self, width: int | None = None) -> Iterator[slice]:
        """Slices of the selected rows; ``width`` lets narrower rows come in larger pieces."""
        step = self.chunk if width is None else max(self.chunk, THREAD_BYTES // (8 * width))
        for start in range(0, self.count, step):
            yield slice(start, min(start + step, self.count))

    def take(
        self, logits: Float[Tensor, "tokens vocab"], piece: slice
    ) -> Float[Tensor, "piece vocab"]:
        """The logits of a piece: a view where all rows are selected, else a copy of the piece."""
        return logits[piece] if self.rows is None else logits.index_select(0, self.rows[piece])

    def put(
        self,
        logits: Float[Tensor, "tokens vocab"],
        piece: slice,
        values: Float[Tensor, "piece vocab"],
    ) -> None:
        """Writes a piece to where it came from."""
        if self.rows is None:
            logits[piece].copy_(values)
        else:
            logits.index_copy_(0, self.rows[piece], values.to(logits.dtype))

    def gather(
        self, logits: Float[Tensor, "tokens vocab"], ids: Int64[Tensor, "selected some"]
    ) -> Float[Tensor, "selected some"]:
        """Some logits of each selected row."""
        if self.rows is None:
            return logits.gather(-1, ids)
        return logits[self.rows.unsqueeze(-1), ids]
