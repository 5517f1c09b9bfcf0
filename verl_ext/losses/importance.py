"""How much likelier the student finds a token than the policy that sampled it.

Source: ``compute_self_distillation_loss`` in ``verl/trainer/ppo/core_algos.py`` of
https://github.com/lasgroup/SDPO, the code of Hübotter et al., "Reinforcement Learning via
Self-Distillation", 2026, https://arxiv.org/abs/2601.20802.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from verl_ext.tensor_ops import require_same_shape

MAX_LOG_RATIO = 20.0  # nats; keeps the exponential finite in every floating-point type but float16


@torch.no_grad()
def clipped_importance_ratio(
    log_probs: Float[Tensor, "*shape"],
    old_log_probs: Float[Tensor, "*shape"],
    *,
    clip: float = 2.0,
) -> Float[Tensor, "*shape"]:
    """The weight of each token's distillation loss, min(exp(clamp(log p − log p_old, ±20)), c).

    Never a path for the gradient: it multiplies the divergence, which has its own.

    Args:
        log_probs: log p of the sampled tokens under the student, in nats.
        old_log_probs: log p_old of the same tokens under the policy that sampled them, in nats.
        clip: c ≥ 1, dimensionless; the authors' ``is_clip``. Only likelier tokens are clipped, so
            that a token the student has left weighs next to nothing.

    Returns:
        Weights in (0, c], 1 where the student has not moved; in the dtype of ``log_probs``.

    Raises:
        ValueError: the shapes differ, or ``clip`` is below 1 (a token on policy would be clipped)
            or not finite.

    Degenerate: a log-probability of −inf under one policy alone counts as 20 nats of difference;
    under both, or NaN, the weight is NaN.

    Deviations: none.
    """
    if not 1 <= clip < float("inf"):
        raise ValueError(f"clip must be finite and >= 1, got {clip}")
    require_same_shape(log_probs=log_probs, old_log_probs=old_log_probs)
    log_ratio = (log_probs - old_log_probs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return log_ratio.exp().clamp(max=clip).to(log_probs.dtype)
