"""Log-probabilities and divergence of many tokens in one pass that keeps next to nothing.

The backward pass needs the softmax of every token, as large as the logits. It is not kept: the
logits themselves are, by reference, and the softmax is made again from them, piece by piece.

    ∂L/∂z_v = g_y [v = y] + g_D (∂D/∂log p_v) − p_v (g_y + g_D Σ_u ∂D/∂log p_u)

with y the label, g_y and g_D the incoming gradients of log p_y and D. On a support of K tokens the
derivatives are K numbers per token, kept; on the full vocabulary they are made again too.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from verl_ext.losses.chunks import TokenRows
from verl_ext.losses.divergence_math import (
    DivergenceKind,
    mass_outside,
    pointwise,
    slopes_only,
    support_divergence,
)
from verl_ext.losses.softmax import Distributions, log_probs_of, scan
from verl_ext.losses.vocabulary import VocabShard, local_ids, shared, summed


@dataclass(frozen=True)
class LocalTeacher:
    """A teacher whose logits are here."""

    logits: Float[Tensor, "tokens vocab"]


@dataclass(frozen=True)
class ServedTeacher:
    """A teacher of whom log-probabilities of some tokens are known, which are the support."""

    ids: Int64[Tensor, "selected top_k"]
    log_probs: Float[Tensor, "selected top_k"]


@dataclass(frozen=True)
class Job:
    """One call of the kernel: everything but the logits that are differentiated."""

    labels: Int64[Tensor, " selected"] | None
    teacher: LocalTeacher | ServedTeacher
    kind: DivergenceKind
    tokens: TokenRows
    vocab: VocabShard | None


class TokenTermsKernel(torch.autograd.Function):
    """The one differentiable step; see the module."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, job: Job) -> tuple[Tensor, ...]:
        """Log-probabilities (empty without labels), divergence, two tails and the overlap."""
        student, student_top = scan(logits, job.tokens, job.kind.top_k, job.vocab)
        log_probs = student.peak.new_empty(0)
        if job.labels is not None:
            labels = job.labels.unsqueeze(-1)
            exact = log_probs_of(logits, labels, student, job.tokens, job.vocab)
            log_probs = exact.squeeze(-1).to(student.peak.dtype)
        given, tokens, top_k = job.teacher, job.tokens, job.kind.top_k
        if isinstance(given, ServedTeacher):
            teacher_top = given.ids
            found = _sparse(logits, student, given.ids, given.log_probs.double(), job)
        else:
            teacher, teacher_top = scan(given.logits, tokens, top_k, job.vocab)
            if job.kind.support == "full":
                found = _full(logits, student, given.logits, teacher, job)
            else:
                ids = student_top if job.kind.support == "student" else teacher_top
                log_q = log_probs_of(given.logits, ids, teacher, tokens, job.vocab)
                found = _sparse(logits, student, ids, log_q, job)
        overlap = torch.full_like(found.values, torch.nan)
        if top_k is not None:
            overlap = shared(student_top, teacher_top).to(overlap.dtype)
        ctx.kind, ctx.tokens, ctx.vocab = job.kind, job.tokens, job.vocab
        ctx.save_for_backward(
            logits, job.labels, student.peak, student.total, found.slope_sum, *found.kept
        )
        ctx.mark_non_differentiable(found.student_tail, found.teacher_tail, overlap)
        return log_probs, found.values, found.student_tail, found.teacher_tail, overlap

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, log_probs_grad: Tensor, divergence_grad: Tensor, *_: Tensor
    ) -> tuple[Tensor, None]:
        """The gradient of the logits, in their dtype; 0 in rows that are not selected."""
        logits, labels, peak, total, slope_sum, *kept = ctx.saved_tensors
        tokens, student = ctx.tokens, Distributions(peak, total)
        grad = torch.empty_like(logits) if tokens.rows is None else torch.zeros_like(logits)
        # A token whose divergence is infinite and counts for nothing is no reason for a NaN.
        counts = divergence_grad != 0
        pull = torch.where(counts, divergence_grad * slope_sum, 0)
        if labels is not None:
            pull = pull + log_probs_grad
            label, here = local_ids(labels.unsqueeze(-1), logits.shape[-1], ctx.vocab)
            at_label = log_probs_grad.unsqueeze(-1)
            at_label = at_label if here is None else at_label * here
        for piece in tokens.pieces():
            rows = tokens.take(logits, piece)
            weight, used = divergence_grad[piece].unsqueeze(-1), counts[piece].unsqueeze(-1)
            if ctx.kind.support == "full":
                log_p = student.all_log_probs(rows, piece)
                values = log_p.exp()
                slopes = _slopes(log_p, values, kept, piece, ctx).mul_(weight)
                values.mul_(-pull[piece].unsqueeze(-1)).add_(slopes.masked_fill_(~used, 0))
            else:
                values = torch.sub(rows, peak[piece].unsqueeze(-1)).exp_()
                values.mul_((-pull[piece] / total[piece]).unsqueeze(-1))
                slopes = torch.where(used, kept[1][piece] * weight, 0)
                values.scatter_add_(-1, kept[0][piece].long(), slopes)
            if labels is not None:
                values.scatter_add_(-1, label[piece], at_label[piece])
            tokens.put(grad, piece, values)
        return grad, None


@dataclass(frozen=True)
class _Divergence:
    """The divergence of the selected tokens, and what its gradient needs."""

    values: Float[Tensor, " selected"]
    slope_sum: Float[Tensor, " selected"]
    student_tail: Float[Tensor, " selected"]
    teacher_tail: Float[Tensor, " selected"]
    kept: tuple[Tensor, ...]


def _sparse(
    logits: Float[Tensor, "tokens vocab"],
    student: Distributions,
    ids: Int64[Tensor, "selected top_k"],
    log_q: Float[Tensor, "selected top_k"],
    job: Job,
) -> _Divergence:
    """On a support of K tokens; kept are their ids in this shard and ∂D/∂log p."""
    log_p = log_probs_of(logits, ids, student, job.tokens, job.vocab)
    values, slope_sum, student_tail, teacher_tail = (
        torch.empty_like(student.peak) for _ in range(4)
    )
    slopes = torch.empty_like(log_p, dtype=student.peak.dtype)
    for piece in job.tokens.pieces(width=ids.shape[-1]):
        values[piece], exact = support_divergence(
            log_p[piece], log_q[piece], alpha=job.kind.alpha, tail=job.kind.tail
        )
        slopes[piece], slope_sum[piece] = exact, exact.sum(-1)
        student_tail[piece] = mass_outside(log_p[piece])
        teacher_tail[piece] = mass_outside(log_q[piece])
    local, here = local_ids(ids, logits.shape[-1], job.vocab)
    if here is not None:
        slopes.masked_fill_(~here, 0)
    return _Divergence(values, slope_sum, student_tail, teacher_tail, (local.int(), slopes))


def _full(
    logits: Float[Tensor, "tokens vocab"],
    student: Distributions,
    teacher_logits: Float[Tensor, "tokens vocab"],
    teacher: Distributions,
    job: Job,
) -> _Divergence:
    """On the whole vocabulary; kept is what makes the teacher's log-probabilities again."""
    values, slope_sum = torch.empty_like(student.peak), torch.empty_like(student.peak)
    for piece in job.tokens.pieces():
        log_p = student.all_log_probs(job.tokens.take(logits, piece), piece)
        log_q = teacher.all_log_probs(job.tokens.take(teacher_logits, piece), piece)
        terms, slopes = pointwise(log_p, log_q.to(log_p.dtype), job.kind.alpha)
        values[piece], slope_sum[piece] = terms.sum(-1), slopes.sum(-1)
    values, slope_sum = summed(values, job.vocab), summed(slope_sum, job.vocab)
    nothing = torch.zeros_like(values)
    kept = (teacher_logits, teacher.peak, teacher.total)
    return _Divergence(values, slope_sum, nothing, nothing.clone(), kept)


def _slopes(
    log_p: Float[Tensor, "piece vocab"],
    p: Float[Tensor, "piece vocab"],
    kept: list[Tensor],
    piece: slice,
    ctx: Any,
) -> Float[Tensor, "piece vocab"]:
    """∂D/∂log p over the whole vocabulary, made again for a piece."""
    teacher_logits, peak, total = kept
    log_q = Distributions(peak, total).all_log_probs(ctx.tokens.take(teacher_logits, piece), piece)
    return slopes_only(log_p, log_q.to(log_p.dtype), p, ctx.kind.alpha)
