"""Log-probabilities under a teacher between the reference policy and the student.

Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", 2026,
https://arxiv.org/abs/2601.20802; ``TrustRegionTeacher`` in ``workers/actor/dp_actor.py`` of
https://github.com/lasgroup/SDPO.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from verl_ext.losses.chunks import TokenRows, arithmetic, default_chunk
from verl_ext.losses.softmax import log_probs_of, scan
from verl_ext.losses.trust_region import trust_region_logits
from verl_ext.losses.vocabulary import VocabShard
from verl_ext.tensor_ops import require_same_shape


@torch.no_grad()
def interpolated_log_probs(
    ref_logits: Float[Tensor, "tokens vocab"],
    student_logits: Float[Tensor, "tokens vocab"],
    labels: Int64[Tensor, "selected some"],
    rate: float,
    *,
    rows: Int64[Tensor, " selected"] | None = None,
    vocab: VocabShard | None = None,
) -> Float[Tensor, "selected some"]:
    """log softmax((1 − ρ) z_ref + ρ z) at the labels, a few tokens at a time.

    Args:
        ref_logits: of the reference policy, divided by the temperature; a shard's where ``vocab``
            is given.
        student_logits: of the student, likewise.
        labels: ids in the whole vocabulary, as many as one likes per selected token.
        rate: ρ in [0, 1], see ``trust_region_logits``.
        rows: strictly increasing numbers of the selected tokens; None selects all.
        vocab: this process's shard of the vocabulary; all of its group must call with the same
            rows and labels.

    Returns:
        Nats, one per label: float64 if the student's logits are, else float32; logits of
        16 bits are interpolated in float32.

    Raises:
        ValueError: the rate is not in [0, 1], the shapes differ, there are not as many rows of
            labels as selected tokens, or the shard does not start where its rank says.

    Degenerate: no selected token gives an empty tensor. Where the two leave no token in common the
    result is NaN.

    Deviations: theirs interpolates in the logits' own type.
    """
    require_same_shape(ref_logits=ref_logits, student_logits=student_logits)
    count = len(student_logits) if rows is None else len(rows)
    if labels.ndim != 2 or len(labels) != count:
        raise ValueError(f"labels must have {count} rows, got the shape {tuple(labels.shape)}")
    if vocab is not None:
        vocab.require_size(student_logits.shape[-1])
    dtype = arithmetic(student_logits.dtype)
    tokens = TokenRows(rows, count, default_chunk(student_logits))
    found = torch.empty(labels.shape, dtype=dtype, device=student_logits.device)
    for piece in tokens.pieces():
        ref, student = tokens.take(ref_logits, piece), tokens.take(student_logits, piece)
        mixed = trust_region_logits(ref.to(dtype), student.to(dtype), rate)
        own = TokenRows(None, len(mixed), len(mixed))
        softmax, _ = scan(mixed, own, None, vocab)
        found[piece] = log_probs_of(mixed, labels[piece], softmax, own, vocab).to(dtype)
    return found
