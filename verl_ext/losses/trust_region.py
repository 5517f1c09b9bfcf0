"""A teacher between the reference policy and the student.

Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", 2026,
https://arxiv.org/abs/2601.20802; ``TrustRegionTeacher`` in ``workers/actor/dp_actor.py`` of
https://github.com/lasgroup/SDPO.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from verl_ext.tensor_ops import require_same_shape


@torch.no_grad()
def trust_region_logits(
    ref_logits: Float[Tensor, "*tokens vocab"],
    student_logits: Float[Tensor, "*tokens vocab"],
    rate: float,
) -> Float[Tensor, "*tokens vocab"]:
    """(1 − ρ) z_ref + ρ z: the teacher q ∝ p_ref^(1−ρ) p^ρ, without a gradient.

    Elementwise and before any normalisation, so a shard of the vocabulary is as good as all of it.

    Args:
        ref_logits: of the frozen reference policy that reads the teacher's prompt, divided by the
            temperature.
        student_logits: of the live student that reads the same prompt, likewise; no gradient flows
            back.
        rate: ρ in [0, 1], dimensionless. 0 is the reference policy, 1 the student.

    Returns:
        Logits in the inputs' dtype. At a rate of 0 or 1 the input itself, whatever the other holds.

    Raises:
        ValueError: the rate is not in [0, 1], or shapes or dtypes differ.

    Degenerate: a token that either side rules out (−inf) is ruled out, with a rate inside (0, 1);
    where the two leave no token in common, the softmax of the row is NaN. NaN or +inf, where the
    other side does not rule the token out, gives NaN or +inf: a broken model shows.

    Deviations: none in finite logits; the plain interpolation gives NaN where one side or both are
    −inf.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    require_same_shape(ref_logits=ref_logits, student_logits=student_logits)
    if ref_logits.dtype != student_logits.dtype:
        raise ValueError(
            f"ref_logits are {ref_logits.dtype}, student_logits {student_logits.dtype}: cast one"
        )
    if rate in (0, 1):
        return (student_logits if rate else ref_logits).detach()
    mixed = torch.lerp(ref_logits, student_logits, rate)
    for logits in (ref_logits, student_logits):
        mixed.masked_fill_(logits == -torch.inf, -torch.inf)
    return mixed
