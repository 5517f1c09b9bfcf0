"""The divergence of two categorical distributions, given their log-probabilities.

Everything here is per category or per short list of categories: who the categories are, and how
their log-probabilities come out of logits, is the business of the kernel.

    p = student, q = teacher, M = (1 − α)p + αq
    α = 0: KL(q‖p)      α = 1: KL(p‖q)      between: (1 − α) KL(p‖M) + α KL(q‖M)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SUPPORTS = ("student", "teacher", "full")
# The mass that the support always leaves to the tail, as its logarithm: exp(-1e-7) = 1 - 1e-7.
LARGEST_LOG_MASS = -1e-7
# Beyond this log-ratio a category's share in the mixture is that of one side alone (e^-80 = 2e-35);
# held there, since exp overflows float32 at 88.
LARGEST_LOG_RATIO = 80.0


@dataclass(frozen=True)
class DivergenceKind:
    """Which divergence, and over which categories.

    Attributes:
        alpha: α in [0, 1]; see the module's formulas.
        top_k: K, the number of tokens in the support.
        support: whose K most likely tokens are the support, or ``"full"`` for all tokens.
        tail: True adds one category for all tokens outside the support; False renormalises both
            distributions on the support.

    Raises:
        ValueError: α is not in [0, 1]; the support is none of the three; it needs ``top_k`` and
            there is none, or it is no whole number above 0; or ``tail`` is no bool.
    """

    alpha: float
    top_k: int | None
    support: str
    tail: bool

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha}")
        if self.support not in SUPPORTS:
            raise ValueError(f"support must be one of {', '.join(SUPPORTS)}, got {self.support!r}")
        if not isinstance(self.tail, bool):
            raise ValueError(f"tail must be True or False, got {self.tail!r}")
        if self.top_k is None:
            if self.support != "full":
                raise ValueError(f"support={self.support!r} needs top_k, the size of the support")
        elif isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1:
            raise ValueError(f"top_k must be a whole number >= 1, got {self.top_k!r}")


def pointwise(
    student: Float[Tensor, "*axes"], teacher: Float[Tensor, "*axes"], alpha: float
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """One category's part of the divergence, and its derivative.

    Args:
        student: log p of each category, in nats.
        teacher: log q of each category, in nats.
        alpha: α in [0, 1].

    Returns:
        The terms whose sum is the divergence, in nats, and their derivatives by log p.

    Degenerate: 0 · log 0 is 0. A term is infinite where the divergence is: q > 0 = p at α = 0 and
    p > 0 = q at α = 1. Equal log-probabilities give exactly 0 for every α.
    """
    if alpha == 0:
        q = teacher.exp()
        return _weighted(q, teacher - student), -q
    p = student.exp()
    if alpha == 1:
        terms = _weighted(p, student - teacher)
        return terms, terms + p
    ratio, mixture = _log_ratios(student, teacher, alpha)
    slopes = p.mul_(mixture).mul_(alpha - 1)
    return ratio.sub_(mixture).mul_(teacher.exp()).mul_(alpha).add_(slopes), slopes


def slopes_only(
    student: Float[Tensor, "*axes"],
    teacher: Float[Tensor, "*axes"],
    student_probs: Float[Tensor, "*axes"],
    alpha: float,
) -> Float[Tensor, "*axes"]:
    """The derivatives of ``pointwise`` without the terms, where p is there already."""
    if alpha == 0:
        return teacher.exp().neg_()
    if alpha == 1:
        return _weighted(student_probs, student - teacher).add_(student_probs)
    # The derivatives of M drop out of the sum: what M gains on one side it loses on the other.
    return _log_ratios(student, teacher, alpha)[1].mul_(student_probs).mul_(alpha - 1)


def _weighted(
    weight: Float[Tensor, "*axes"], log_ratio: Float[Tensor, "*axes"]
) -> Float[Tensor, "*axes"]:
    """Weight times log-ratio, 0 where the weight is 0 although the log-ratio is infinite or NaN."""
    return (weight * log_ratio).masked_fill_(weight == 0, 0)


def _log_ratios(
    student: Float[Tensor, "*axes"], teacher: Float[Tensor, "*axes"], alpha: float
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """log(q/p) and log(M/p), both finite: a weight of 0 then makes 0 of them.

    log(M/p) = log(1 + α(q/p − 1)) is exact where p and q are close, unlike log M itself.
    """
    ratio = teacher - student
    ratio.nan_to_num_(nan=0.0, neginf=-LARGEST_LOG_RATIO).clamp_(max=LARGEST_LOG_RATIO)
    return ratio, ratio.expm1().mul_(alpha).log1p_()


def support_divergence(
    student: Float[Tensor, "tokens top_k"],
    teacher: Float[Tensor, "tokens top_k"],
    *,
    alpha: float,
    tail: bool,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, "tokens top_k"]]:
    """The divergence on a support of K tokens, and its gradient by the student's log-probabilities.

    Args:
        student: log p of the support's tokens, normalised over the whole vocabulary.
        teacher: log q of the same tokens, normalised over the whole vocabulary.
        alpha: α in [0, 1].
        tail: see ``DivergenceKind``.

    Returns:
        The divergence per token in nats, and ∂D/∂(log p) with the support held constant.
    """
    student_mass = student.logsumexp(-1, keepdim=True)
    teacher_mass = teacher.logsumexp(-1, keepdim=True)
    if not tail:
        student = student - student_mass
        terms, slopes = pointwise(student, teacher - teacher_mass, alpha)
        # log p − log Σp: every token of the support also lowers the others.
        slopes = slopes - student.exp() * slopes.sum(-1, keepdim=True)
        return terms.sum(-1), slopes
    terms, slopes = pointwise(student, teacher, alpha)
    student_tail, moves = _log_tail(student_mass)
    tail_term, tail_slope = pointwise(student_tail, _log_tail(teacher_mass)[0], alpha)
    # ∂ log(1 − Σp) / ∂ log p_k = −p_k / (1 − Σp)
    pull = (student - student_tail).exp() * tail_slope
    slopes = slopes - torch.where(moves, pull, 0)
    return terms.sum(-1) + tail_term.squeeze(-1), slopes


def _log_tail(
    log_mass: Float[Tensor, "tokens 1"],
) -> tuple[Float[Tensor, "tokens 1"], Bool[Tensor, "tokens 1"]]:
    """log(1 − mass), at least log 1e-7, and whether it still moves with the mass."""
    held = log_mass.clamp(max=LARGEST_LOG_MASS)
    return torch.log(-torch.expm1(held)), log_mass <= LARGEST_LOG_MASS


def mass_outside(log_probs: Float[Tensor, "tokens top_k"]) -> Float[Tensor, " tokens"]:
    """The probability outside the support, in [0, 1]."""
    return -torch.expm1(log_probs.logsumexp(-1).clamp(max=0))
