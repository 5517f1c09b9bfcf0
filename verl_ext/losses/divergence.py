"""The divergence between a student's and a teacher's next-token distributions, token by token.

Forward and reverse KL and the Jensen-Shannon family between them, on the K tokens that matter or
on the whole vocabulary, without a buffer of the size of the logits. What the training engines call
is ``token_terms``, which gives log-probabilities in the same pass and knows split vocabularies.

Source: the divergences and the tail: Hübotter et al., "Reinforcement Learning via
Self-Distillation", 2026, https://arxiv.org/abs/2601.20802, and the authors' code; the family:
Agarwal et al., "On-Policy Distillation of Language Models", 2023, https://arxiv.org/abs/2306.13649.
"""

from jaxtyping import Float
from torch import Tensor

from verl_ext.losses.divergence_math import DivergenceKind
from verl_ext.losses.token_terms import (
    TeacherLogits,
    TeacherOnStudentTopK,
    TeacherTopK,
    TokenTerms,
    token_terms,
)
from verl_ext.losses.vocabulary import VocabShard

__all__ = [
    "TeacherLogits",
    "TeacherOnStudentTopK",
    "TeacherTopK",
    "TokenTerms",
    "VocabShard",
    "divergence",
    "token_terms",
]


def divergence(
    student_logits: Float[Tensor, "*axes vocab"],
    teacher_logits: Float[Tensor, "*axes vocab"],
    *,
    alpha: float,
    top_k: int | None = None,
    support: str = "student",
    tail: bool = True,
) -> Float[Tensor, "*axes"]:
    """How far the student p is from the teacher q, per token, in nats.

        α = 0      KL(q‖p), forward: the student must cover whatever the teacher does
        α = 1      KL(p‖q), reverse: the student must not do what the teacher would not
        0 < α < 1  (1 − α) KL(p‖M) + α KL(q‖M),  M = (1 − α)p + αq

    α is no smooth knob: near 0 and 1 the middle form vanishes, while at 0 and 1 stands a full KL.
    The support's ids are constants: no gradient flows through the choice of the K tokens.

    Args:
        student_logits: z, divided by the temperature; any leading axes.
        teacher_logits: of the same shape; gets no gradient.
        alpha: α in [0, 1].
        top_k: K ≥ 1; not with ``support="full"``.
        support: ``"student"`` or ``"teacher"``: whose K most likely tokens are compared, the
            lowest id first among equals; ``"full"`` for all tokens.
        tail: True puts all other tokens into one more category of probability 1 − Σp, at least
            1e-7; False renormalises both sides on the support, and is blind to what a student
            moves out of it. Without effect on the full vocabulary.

    Returns:
        One value per token: float64 if the student's logits are, else float32.

    Raises:
        ValueError: α is not in [0, 1]; ``support`` is none of the three; ``top_k`` is lacking,
            without meaning (full), below 1 or above the vocabulary; shapes or devices differ; or
            the logits are not floating point.

    Degenerate: equal logits give exactly 0. With K = V, or a vocabulary of one token, the tail is
    1e-7 on both sides and adds 0. A logit of −inf is a token of probability 0, and 0 · log 0 is 0:
    the divergence is infinite only where it is so mathematically, which is where q > 0 = p at
    α = 0 and p > 0 = q at α = 1, and its gradient is finite but in the latter case. Below 1e-7 the
    tail is held, and passes no gradient. NaN where a side has no mass on the support and
    ``tail=False``, or no finite logit.

    Deviations: none from the authors' top-k form but in precision: sums over the support are done
    in float64, since a tail of 1e-7 does not exist in float32.
    """
    if support == "full" and top_k is not None:
        raise ValueError(f"top_k has no meaning with support='full', got {top_k}: leave it out")
    DivergenceKind(alpha, top_k, support, tail)
    if student_logits.shape != teacher_logits.shape or not student_logits.ndim:
        raise ValueError(
            "student_logits and teacher_logits must have the same shape (..., vocabulary), got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    size = student_logits.shape[-1]
    if not size:
        raise ValueError("the vocabulary, the last axis of student_logits, is empty")
    terms = token_terms(
        student_logits.reshape(-1, size),
        None,
        TeacherLogits(teacher_logits.detach().reshape(-1, size)),
        alpha=alpha,
        top_k=top_k,
        support=support,
        tail=tail,
    )
    return terms.divergence.reshape(student_logits.shape[:-1])
