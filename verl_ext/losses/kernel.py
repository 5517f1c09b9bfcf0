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
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from verl_ext.losses.chunks import TokenRows, arithmetic
from verl_ext.losses.divergence_math import (
    DivergenceKind,
    mass_outside,
    pointwise,
    slopes_only,
    support_divergence,
)
from verl_ext.losses.vocabulary import (
    BLOCK,
    VocabShard,
    local_ids,
    merged_top,
    reduced,
    shared,
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


@dataclass(frozen=True)
class Teacher:
    """What is known of the teacher: its logits, or log-probabilities of some tokens."""

    logits: Float[Tensor, "tokens vocab"] | None = None
    ids: Int64[Tensor, "selected top_k"] | None = None
    log_probs: Float[Tensor, "selected top_k"] | None = None


@dataclass(frozen=True)
class Job:
    """One call of the kernel: everything but the logits that are differentiated."""

    labels: Int64[Tensor, " selected"] | None
    teacher: Teacher
    kind: DivergenceKind
    tokens: TokenRows
    vocab: VocabShard | None


def scan(
    logits: Float[Tensor, "tokens vocab"], job: Job, top_k: int | None
) -> tuple[Distributions, Int64[Tensor, "selected top_k"] | None]:
    """Reads the selected rows once: their softmax's two numbers, and their K most likely tokens."""
    tokens, size = job.tokens, logits.shape[-1]
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
    if job.vocab is not None:
        whole = reduced(peak.clone(), job.vocab, dist.ReduceOp.MAX)
        total = summed(total * (peak - whole).exp_(), job.vocab)
        peak = whole
    if top_k is None:
        return Distributions(peak, total), None
    values = tokens.gather(logits, ids).to(dtype)
    return Distributions(peak, total), merged_top(values, ids, top_k, job.vocab)


def _peaks(
    rows: Float[Tensor, "piece vocab"],
) -> tuple[Float[Tensor, " piece"], Float[Tensor, "piece blocks"] | None]:
    """The largest logit of each row, and of each block of neighbours if there are any."""
    whole = rows.shape[-1] // BLOCK * BLOCK
    if not whole:
        return rows.amax(-1), None
    blocks = rows[:, :whole].unflatten(-1, (-1, BLOCK)).amax(-1)
    peak = blocks.amax(-1)
    if whole < rows.shape[-1]:
        peak = torch.maximum(peak, rows[:, whole:].amax(-1))
    return peak, blocks


def log_probs_of(
    logits: Float[Tensor, "tokens vocab"],
    ids: Int64[Tensor, "selected some"],
    distributions: Distributions,
    job: Job,
) -> Float[Tensor, "selected some"]:
    """log p of some tokens of each selected row, in float64, whichever shard holds them."""
    local, here = local_ids(ids, logits.shape[-1], job.vocab)
    values = job.tokens.gather(logits, local).to(arithmetic(logits.dtype))
    if here is not None:
        values = summed(values.masked_fill_(~here, 0), job.vocab)
    return distributions.log_probs(values)


class TokenTermsKernel(torch.autograd.Function):
    """The one differentiable step; see the module."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, job: Job) -> tuple[Tensor, ...]:
        """Log-probabilities (empty without labels), divergence, two tails and the overlap."""
        student, student_top = scan(logits, job, job.kind.top_k)
        log_probs = student.peak.new_empty(0)
        if job.labels is not None:
            found = log_probs_of(logits, job.labels.unsqueeze(-1), student, job)
            log_probs = found.squeeze(-1).to(student.peak.dtype)
        teacher, teacher_top = None, job.teacher.ids
        if job.teacher.logits is not None:
            teacher, teacher_top = scan(job.teacher.logits, job, job.kind.top_k)
        if job.kind.support == "full":
            divergence, slope_sum = _full(logits, student, teacher, job)
            tails = (torch.zeros_like(divergence), torch.zeros_like(divergence))
            kept = (job.teacher.logits, teacher.peak, teacher.total)
        else:
            ids = student_top if job.kind.support == "student" else teacher_top
            divergence, slope_sum, tails, kept = _sparse(logits, student, teacher, ids, job)
        overlap = torch.full_like(divergence, torch.nan)
        if student_top is not None and teacher_top is not None:
            overlap = shared(student_top, teacher_top).to(divergence.dtype)
        ctx.kind, ctx.tokens, ctx.vocab = job.kind, job.tokens, job.vocab
        ctx.save_for_backward(logits, job.labels, student.peak, student.total, slope_sum, *kept)
        ctx.mark_non_differentiable(*tails, overlap)
        return log_probs, divergence, *tails, overlap

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


def _sparse(logits, student, teacher, ids, job):
    """The divergence on a support of K tokens, and what its gradient needs."""
    log_p = log_probs_of(logits, ids, student, job)
    if teacher is None:
        log_q = job.teacher.log_probs.double()
    else:
        log_q = log_probs_of(job.teacher.logits, ids, teacher, job)
    dtype = student.peak.dtype
    divergence = torch.empty_like(student.peak)
    slopes = log_p.new_empty(log_p.shape, dtype=dtype)
    slope_sum = torch.empty_like(divergence)
    tails = (torch.empty_like(divergence), torch.empty_like(divergence))
    for piece in job.tokens.pieces(width=ids.shape[-1]):
        divergence[piece], exact = support_divergence(
            log_p[piece], log_q[piece], alpha=job.kind.alpha, tail=job.kind.tail
        )
        slopes[piece], slope_sum[piece] = exact, exact.sum(-1)
        tails[0][piece], tails[1][piece] = mass_outside(log_p[piece]), mass_outside(log_q[piece])
    local, here = local_ids(ids, logits.shape[-1], job.vocab)
    if here is not None:
        slopes.masked_fill_(~here, 0)
    return divergence, slope_sum, tails, (local.int(), slopes)


def _full(logits, student, teacher, job):
    """The divergence over the whole vocabulary, and the sum of its derivatives by log p."""
    divergence = torch.empty_like(student.peak)
    slope_sum = torch.empty_like(divergence)
    for piece in job.tokens.pieces():
        log_p = student.all_log_probs(job.tokens.take(logits, piece), piece)
        log_q = teacher.all_log_probs(job.tokens.take(job.teacher.logits, piece), piece)
        terms, slopes = pointwise(log_p, log_q.to(log_p.dtype), job.kind.alpha)
        divergence[piece], slope_sum[piece] = terms.sum(-1), slopes.sum(-1)
    return summed(divergence, job.vocab), summed(slope_sum, job.vocab)


def _slopes(log_p, p, kept, piece, ctx):
    """∂D/∂log p over the whole vocabulary, made again for a piece."""
    teacher_logits, peak, total = kept
    log_q = Distributions(peak, total).all_log_probs(ctx.tokens.take(teacher_logits, piece), piece)
    return slopes_only(log_p, log_q.to(log_p.dtype), p, ctx.kind.alpha)
