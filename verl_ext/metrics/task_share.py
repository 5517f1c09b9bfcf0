"""Which task the next update listens to: shares of the summed absolute advantage.

The policy gradient is a sum over sampled tokens, each weighed by its advantage. How much of the
summed weight is one task's is thus a proxy for its part in the update, without a backward pass per
task; gradients of different tokens may still differ in length, or cancel.
"""

from collections.abc import Collection, Hashable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import (
    label_index,
    outcome_scores,
    require_finite,
    require_same_shape,
)


@torch.no_grad()
def advantage_share(
    advantages: Float[Tensor, "batch time"],
    response_mask: Shaped[Tensor, "batch time"],
    task_ids: Collection[Hashable],
) -> dict[Hashable, float]:
    """Returns for each task its part of Σ |A| over the sampled tokens of the batch.

    Args:
        advantages: what the loss multiplies each token's ratio with.
        response_mask: 1 on sampled tokens, 0 on padding and observations.
        task_ids: one label per row, equal for prompts of the same task.

    Returns:
        Task -> share in [0, 1], in order of appearance, computed in float64; the shares sum to 1.

    Raises:
        ValueError: the shapes differ, the labels are not one per row or are NaN, or an advantage of
            a sampled token is NaN or infinite.

    Degenerate: where every advantage is 0 there is no update, and each task's share is 0. A task
    without sampled tokens has share 0. No rows give no tasks.
    """
    require_same_shape(advantages=advantages, response_mask=response_mask)
    tasks = label_index("task_ids", task_ids, len(advantages), advantages.device)
    weights = outcome_scores(advantages.double().abs(), response_mask)
    require_finite("summed |advantages|", weights, "look for the reward that is none")
    # In label_index's order, which is that of its numbers.
    labels = dict.fromkeys(task_ids.tolist() if hasattr(task_ids, "tolist") else task_ids)
    sums = torch.zeros(len(labels), dtype=torch.float64, device=weights.device)
    sums.index_add_(0, tasks, weights)
    total = sums.sum()
    shares = sums / total if total > 0 else sums
    return dict(zip(labels, shares.tolist(), strict=True))
