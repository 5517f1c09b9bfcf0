"""Rank advantage: a response's reward within its group, as a tournament or any judge ranked it.

Source: "ArenaRL: Scaling RL for Open-Ended Agents via Tournament-based Relative Ranking", 2026,
https://arxiv.org/abs/2601.06487, and https://github.com/Alibaba-NLP/qqr.
"""

from collections.abc import Collection, Hashable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import (
    centred,
    label_index,
    require_finite,
    spread_over_tokens,
    sums_over,
)


@torch.no_grad()
def rank(
    rewards: Float[Tensor, " batch"],
    response_mask: Shaped[Tensor, "batch time"],
    group_ids: Collection[Hashable],
    *,
    eps: float = 1e-6,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Standardises a response's reward in its group.

        Aᵢ = (rᵢ − mean of r over i's group) / (std of r over i's group + ε)

    The deviation is unbiased (n − 1). Of n responses without ties r = 1 − place/(n − 1) gives the
    same advantages in every group, whatever the judge's scores were.

    Args:
        rewards: one for each response, such as a tournament's.
        response_mask: 1 on sampled tokens, 0 on padding and observations.
        group_ids: one label per row, equal for responses to the same prompt.
        eps: ε > 0, in units of the reward; added to the deviation, outside the root.

    Returns:
        Advantages and returns, equal to each other, 0 where masked.

    Raises:
        ValueError: ε is not finite and positive, the rows differ in number, a label is NaN, or a
            reward is NaN or infinite.

    Degenerate: a group of one or of equal rewards gives exactly 0. A row without sampled tokens
    counts in no mean, no deviation and no group size, and gets 0, whatever its reward.

    Deviations: a group of one gets 0; the authors' code divides by zero or gives NaN.
    """
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be finite and > 0, got {eps}")
    if rewards.shape != response_mask.shape[:1]:
        raise ValueError(
            f"rewards must be one per row of response_mask {tuple(response_mask.shape)}, "
            f"got {tuple(rewards.shape)}"
        )
    sampled = response_mask.bool()
    groups = label_index("group_ids", group_ids, len(sampled), sampled.device)
    counted = sampled.any(-1)
    values = torch.where(counted, rewards, 0).double()
    require_finite("rewards", values, "give a group without a ranking one reward for all")
    # Numbered anew, so that a label's number stays below the number of rows that are left.
    groups = torch.unique(groups[counted], return_inverse=True)[1]
    deviations, size = centred(values[counted], groups)
    std = (sums_over(deviations.square(), groups) / (size - 1).clamp_min(1)).sqrt()
    scores = torch.zeros_like(values)
    scores[counted] = deviations / (std + eps)
    advantages = spread_over_tokens(scores.to(rewards.dtype), sampled)
    return advantages, advantages
