"""A support chosen in one forward pass and judged in another: likely tokens, and log-probs of them.

Where the student's logits and the teacher's never exist side by side, since they come of different
sequences, the first pass leaves the ids, the second the teacher's log-probabilities of these.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from verl_ext.losses.chunks import TokenRows, arithmetic, default_chunk
from verl_ext.losses.softmax import log_probs_of, scan
from verl_ext.losses.vocabulary import VocabShard


@torch.no_grad()
def most_likely_tokens(
    logits: Float[Tensor, "tokens vocab"],
    top_k: int,
    *,
    rows: Int64[Tensor, " selected"] | None = None,
    vocab: VocabShard | None = None,
) -> Int64[Tensor, "selected top_k"]:
    """The ids of the K largest logits of each selected token, largest first.

    Args:
        logits: a shard's where ``vocab`` is given.
        top_k: K.
        rows: strictly increasing numbers of the selected tokens; None selects all.
        vocab: this process's shard of the vocabulary; all of its group must call with the same
            rows.

    Returns:
        Ids in the whole vocabulary; of equal logits the lowest first.

    Raises:
        ValueError: K is not between 1 and the vocabulary, or the shard does not start where its
            rank says.

    Degenerate: a row with a NaN gives any K distinct ids.
    """
    size = _size(logits, vocab)
    if not 1 <= top_k <= size:
        raise ValueError(f"top_k must be between 1 and the vocabulary's {size}, got {top_k}")
    _, ids = scan(logits, _tokens(logits, rows), top_k, vocab)
    return ids


@torch.no_grad()
def log_probs_at(
    logits: Float[Tensor, "tokens vocab"],
    ids: Int64[Tensor, "selected some"],
    *,
    rows: Int64[Tensor, " selected"] | None = None,
    vocab: VocabShard | None = None,
) -> Float[Tensor, "selected some"]:
    """log softmax(z) of some tokens of each row, normalised over the whole vocabulary.

    Args:
        logits: z, divided by the temperature; a shard's where ``vocab`` is given.
        ids: in the whole vocabulary.
        rows: strictly increasing numbers of the selected tokens; None selects all.
        vocab: as for :func:`most_likely_tokens`; with the same ids.

    Returns:
        Nats: float64 if the logits are, else float32.

    Raises:
        ValueError: there are not as many rows of ids as selected tokens, or the shard does not
            start where its rank says.

    Degenerate: a row of −inf alone, or one with NaN or +inf, gives NaN.
    """
    _size(logits, vocab)
    tokens = _tokens(logits, rows)
    if ids.ndim != 2 or len(ids) != tokens.count:
        raise ValueError(f"ids must have {tokens.count} rows, got the shape {tuple(ids.shape)}")
    softmax, _ = scan(logits, tokens, None, vocab)
    return log_probs_of(logits, ids, softmax, tokens, vocab).to(arithmetic(logits.dtype))


def _tokens(logits: Tensor, rows: Tensor | None) -> TokenRows:
    return TokenRows(rows, len(logits) if rows is None else len(rows), default_chunk(logits))


def _size(logits: Tensor, vocab: VocabShard | None) -> int:
    """The whole vocabulary's."""
    size = logits.shape[-1]
    if vocab is None:
        return size
    vocab.require_size(size)
    return size * vocab.count
