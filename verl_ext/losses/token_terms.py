"""What a distillation loss needs of each token: log-probability and divergence in one pass."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from verl_ext.losses.chunks import TokenRows, default_chunk
from verl_ext.losses.divergence_math import DivergenceKind
from verl_ext.losses.kernel import Job, LocalTeacher, ServedTeacher, TokenTermsKernel
from verl_ext.losses.vocabulary import VocabShard


class TeacherLogits(NamedTuple):
    """A teacher that is in this process: its logits, laid out, selected and split as the student's.

    Attributes:
        logits: of the same tokens; never given a gradient.
    """

    logits: Float[Tensor, "tokens vocab"]


class TeacherTopK(NamedTuple):
    """A teacher behind a server: its K most likely tokens, one row per selected token.

    Attributes:
        ids: in the whole vocabulary, distinct within a row.
        log_probs: of these tokens, in nats, normalised over the teacher's whole vocabulary. −inf
            (a token the server never samples) counts as a probability of 0.
    """

    ids: Int[Tensor, "selected top_k"]
    log_probs: Float[Tensor, "selected top_k"]


class TeacherOnStudentTopK(NamedTuple):
    """A teacher that was asked beforehand about tokens that the student finds most likely.

    Attributes:
        ids: the support, distinct within a row; the student's K most likely tokens when it was
            asked.
        log_probs: of these tokens, in nats, normalised over the teacher's whole vocabulary.
    """

    ids: Int[Tensor, "selected top_k"]
    log_probs: Float[Tensor, "selected top_k"]


class TokenTerms(NamedTuple):
    """Per selected token; float64 if the logits are, else float32.

    Attributes:
        log_probs: log p of the labels in nats, differentiable; None without labels.
        divergence: in nats, differentiable.
        student_tail: the student's probability outside the support; 0 on the full vocabulary.
        teacher_tail: the teacher's.
        overlap: the share of the student's K most likely tokens that are among the teacher's, or
            still in the support that ``TeacherOnStudentTopK`` brings; NaN where there is no K.
    """

    log_probs: Float[Tensor, " selected"] | None
    divergence: Float[Tensor, " selected"]
    student_tail: Float[Tensor, " selected"]
    teacher_tail: Float[Tensor, " selected"]
    overlap: Float[Tensor, " selected"]


# The call of the engines' adapter; its keywords are one line each there.
def token_terms(  # noqa: PLR0913
    student_logits: Float[Tensor, "tokens vocab"],
    labels: Int64[Tensor, " selected"] | None,
    teacher: TeacherLogits | TeacherTopK | TeacherOnStudentTopK,
    *,
    alpha: float,
    support: str,
    tail: bool,
    top_k: int | None = None,
    rows: Int64[Tensor, " selected"] | None = None,
    vocab: VocabShard | None = None,
    chunk_tokens: int | None = None,
) -> TokenTerms:
    """The labels' log-probabilities and the divergence from a teacher, token by token.

    Between forward and backward pass it keeps, beside the logits themselves (and a teacher's, on
    the full vocabulary), K ids and K numbers per selected token. Formulas: ``divergence``.

    Args:
        student_logits: z, divided by the temperature; a shard's where ``vocab`` is given. Kept by
            reference: whoever overwrites them before the backward pass is told by autograd.
        labels: y, ids in the whole vocabulary, one per selected token; or None.
        teacher: ``TeacherLogits``, ``TeacherTopK`` with ``support="teacher"``, or
            ``TeacherOnStudentTopK`` with ``support="student"``.
        alpha: α in [0, 1].
        support: ``"student"`` or ``"teacher"``: whose K most likely tokens are compared; or
            ``"full"``. Of equal logits the lowest id is taken.
        tail: True: one more category for all other tokens; False: both sides renormalised.
        top_k: K; may be left out with a teacher that brings its tokens. On the full vocabulary it
            changes nothing but ``overlap``.
        rows: strictly increasing numbers of the selected tokens; None selects all. The others cost
            nothing and get a gradient of 0.
        vocab: this process's shard of the vocabulary; all of its group must call with the same
            rows, labels and settings. The backward pass does not communicate.
        chunk_tokens: how many tokens are worked on at a time; None chooses by the device.

    Returns:
        ``TokenTerms``, one entry per selected token.

    Raises:
        ValueError: a setting is invalid; shapes, dtypes or devices do not fit; rows are not
            strictly increasing; rows, labels or ids are out of range or a token's ids repeat; a
            teacher that brings its tokens comes with another support; K is above the vocabulary;
            the shard does not start where its rank says.

    Degenerate: see ``divergence``. No selected token gives empty tensors and a gradient of 0. A
    token whose incoming gradient is 0 gets a gradient of 0, infinite as its divergence may be. A
    row of −inf alone, or one with NaN or +inf, gives NaN there and nowhere else.
    """
    _require_matrix("student_logits", student_logits, None, student_logits)
    if not isinstance(teacher, TeacherLogits):
        top_k = _served_top_k(teacher, support, top_k)
    kind = DivergenceKind(alpha, top_k, support, tail)
    tokens = _token_rows(student_logits, rows, chunk_tokens)
    size = student_logits.shape[-1]
    if vocab is not None:
        vocab.require_size(size)
        size *= vocab.count
    if top_k is not None and top_k > size:
        raise ValueError(f"top_k must be at most the vocabulary's {size} tokens, got {top_k}")
    known = _teacher(teacher, student_logits, tokens)
    if labels is not None:
        _require_integers("labels", labels, (tokens.count,), student_logits)
        if labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64, got {labels.dtype}")
    _require_values(student_logits, labels, known, tokens, size)
    log_probs, *others = TokenTermsKernel.apply(  # type: ignore[no-untyped-call]
        student_logits, Job(labels, known, kind, tokens, vocab)
    )
    return TokenTerms(None if labels is None else log_probs, *others)


def _served_top_k(
    teacher: TeacherTopK | TeacherOnStudentTopK, support: str, top_k: int | None
) -> int:
    """The K of a teacher that gives nothing else."""
    if not isinstance(teacher, (TeacherTopK, TeacherOnStudentTopK)):
        raise ValueError(
            "teacher must be TeacherLogits, TeacherTopK or TeacherOnStudentTopK, got "
            f"{type(teacher)}"
        )
    whose = "teacher" if isinstance(teacher, TeacherTopK) else "student"
    if support != whose:
        raise ValueError(
            f"support={support!r} needs the teacher's logits: {type(teacher).__name__} knows only "
            f"the {whose}'s most likely tokens and goes with support={whose!r}"
        )
    _require_matrix("teacher.log_probs", teacher.log_probs, None, teacher.log_probs)
    _require_integers("teacher.ids", teacher.ids, teacher.log_probs.shape, teacher.log_probs)
    served = teacher.ids.shape[-1]
    if top_k not in (None, served):
        raise ValueError(f"top_k is {top_k}, but the teacher gives {served} tokens: leave it out")
    return served


def _token_rows(logits: Tensor, rows: Tensor | None, chunk_tokens: int | None) -> TokenRows:
    """The selected rows and the size of a chunk, checked but for the row numbers themselves."""
    if chunk_tokens is None:
        chunk_tokens = default_chunk(logits)
    elif isinstance(chunk_tokens, bool) or not isinstance(chunk_tokens, int) or chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be a whole number >= 1, got {chunk_tokens!r}")
    if rows is None:
        return TokenRows(None, len(logits), chunk_tokens)
    _require_integers("rows", rows, (rows.numel(),), logits)
    return TokenRows(rows.long(), len(rows), chunk_tokens)


def _teacher(
    teacher: TeacherLogits | TeacherTopK | TeacherOnStudentTopK,
    student_logits: Tensor,
    tokens: TokenRows,
) -> LocalTeacher | ServedTeacher:
    """The teacher without its graph, its shapes checked against the student's."""
    if not isinstance(teacher, TeacherLogits):
        shape = (tokens.count, teacher.ids.shape[-1])
        _require_matrix("teacher.log_probs", teacher.log_probs, shape, student_logits)
        return ServedTeacher(ids=teacher.ids.long(), log_probs=teacher.log_probs.detach())
    _require_matrix("teacher.logits", teacher.logits, student_logits.shape, student_logits)
    return LocalTeacher(logits=teacher.logits.detach())


def _require_matrix(
    name: str, values: Tensor, shape: tuple[int, ...] | None, beside: Tensor
) -> None:
    """Refuses what is not a floating-point matrix (of this shape) on the device of another."""
    if values.ndim != 2 or not values.shape[-1] or not values.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point matrix of at least one column, got "
            f"{tuple(values.shape)} of {values.dtype}"
        )
    _require_place(name, values, values.shape if shape is None else shape, beside)


def _require_integers(name: str, values: Tensor, shape: tuple[int, ...], beside: Tensor) -> None:
    """Refuses what are not integers of this shape on the device of another tensor."""
    if values.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must be int32 or int64, got {values.dtype}")
    _require_place(name, values, shape, beside)


def _require_place(name: str, values: Tensor, shape: tuple[int, ...], beside: Tensor) -> None:
    """Refuses another shape or device."""
    if tuple(values.shape) != tuple(shape):
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(values.shape)}")
    if values.device != beside.device:
        raise ValueError(f"{name} is on {values.device}, the logits on {beside.device}")


def _require_values(
    logits: Tensor,
    labels: Tensor | None,
    teacher: LocalTeacher | ServedTeacher,
    tokens: TokenRows,
    size: int,
) -> None:
    """Refuses indices that are out of range or repeat; the device is waited for once."""
    if not tokens.count:
        return
    checks = {}
    if tokens.rows is not None:
        rows = tokens.rows
        inside = (rows[0] >= 0) & (rows[-1] < len(logits))
        checks[f"rows must be strictly increasing and below {len(logits)}"] = (
            inside & (rows[1:] > rows[:-1]).all()
        )
    if labels is not None:
        checks[f"labels must be in [0, {size})"] = ((labels >= 0) & (labels < size)).all()
    if isinstance(teacher, ServedTeacher):
        ids = teacher.ids.sort(-1).values
        inside = (ids[:, 0] >= 0).all() & (ids[:, -1] < size).all()
        checks[f"teacher.ids must be in [0, {size}) and distinct within a token"] = (
            inside & (ids[:, 1:] > ids[:, :-1]).all()
        )
    if not checks:
        return
    for message, passed in zip(checks, torch.stack(list(checks.values())).tolist(), strict=True):
        if not passed:
            raise ValueError(message)
