"""Task-specific normalisation: each task in the batch speaks equally loudly.

Source: Shen et al., "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory
Management", 2025, https://arxiv.org/abs/2512.12967, equation 7, and the snippet in the authors'
README, https://github.com/Tongyi-Zhiwen/Qwen-Doc.
"""

from collections.abc import Collection, Hashable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from verl_ext.tensor_ops import (
    centred,
    label_index,
    outcome_scores,
    require_finite,
    require_same_shape,
    spread_over_tokens,
    sums_over,
)

SINGLETON = ("zero", "paper")


@torch.no_grad()
def task_norm(
    token_level_rewards: Float[Tensor, "batch time"],
    response_mask: Shaped[Tensor, "batch time"],
    group_ids: Collection[Hashable],
    task_ids: Collection[Hashable],
    *,
    eps: float = 1e-6,
    singleton: str = "zero",
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Centres an outcome on its group and divides it by its task's standard deviation.

        Aᵢ = (rᵢ − mean of r over i's group) / (std of r over i's task in this batch + ε)

    The deviation is that of the uncentred outcomes, unbiased (n − 1). A task whose rewards are
    spread over [0, 100] then weighs no more than one spread over [0, 1], and within a task an easy
    prompt's rare mistake is not blown up as by a deviation per prompt (GRPO).

    Args:
        token_level_rewards: rewards whose row sums over sampled tokens are the outcomes rᵢ.
        response_mask: 1 on sampled tokens, 0 on padding and observations.
        group_ids: one label per row, equal for responses to the same prompt.
        task_ids: one label per row, equal for prompts of the same task.
        eps: ε > 0, in units of the reward; added to the deviation, outside the root.
        singleton: what a lone response gets: ``"zero"``, or ``"paper"`` for rᵢ / (std + ε) as
            published. Either way it counts in its task's deviation.

    Returns:
        Advantages and returns, equal to each other, 0 where masked.

    Raises:
        ValueError: ``singleton`` is neither, ε is not finite and positive, the shapes differ, the
            labels are not one per row or are NaN, or an outcome is NaN or infinite.

    Degenerate: equal outcomes in a group, or in the whole task, give exactly 0. A group of one
    gives 0; so does a task of one row, should its group span tasks (every row is divided by its own
    task's deviation). A row without sampled tokens has no outcome: it counts in no mean, no
    deviation and no group size, and gets 0.

    Deviations: a lone response gets 0; as published its outcome is left uncentred, and divided by
    ε alone (0.5 becomes 500,000) where it is its task's only row. A NaN outcome is refused; as
    published it makes every row of its task NaN. Rows without sampled tokens count as 0 there.
    """
    if singleton not in SINGLETON:
        raise ValueError(f"singleton must be one of {', '.join(SINGLETON)}, got {singleton!r}")
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be finite and > 0, got {eps}")
    require_same_shape(token_level_rewards=token_level_rewards, response_mask=response_mask)
    sampled = response_mask.bool()
    groups = label_index("group_ids", group_ids, len(sampled), sampled.device)
    tasks = label_index("task_ids", task_ids, len(sampled), sampled.device)
    # One number per response: float64 costs nothing, and no batch is too large for its sums.
    outcomes = outcome_scores(token_level_rewards, sampled).double()
    require_finite("outcomes", outcomes, "mask every token of a response that has no score")
    counted = sampled.any(-1)
    # Numbered anew, so that a label's number stays below the number of rows that are left.
    groups = torch.unique(groups[counted], return_inverse=True)[1]
    tasks = torch.unique(tasks[counted], return_inverse=True)[1]
    scores = torch.zeros_like(outcomes)
    scores[counted] = _normalised(
        outcomes[counted], groups, tasks, eps=eps, published=singleton == "paper"
    )
    advantages = spread_over_tokens(scores.to(token_level_rewards.dtype), sampled)
    return advantages, advantages


def _normalised(
    outcomes: Float[Tensor, " batch"],
    groups: Int64[Tensor, " batch"],
    tasks: Int64[Tensor, " batch"],
    *,
    eps: float,
    published: bool,
) -> Float[Tensor, " batch"]:
    """The formula above, on the rows that have an outcome."""
    from_mean, group_size = centred(outcomes, groups)
    deviations, task_size = centred(outcomes, tasks)
    squares = sums_over(deviations.square(), tasks)
    std = (squares / (task_size - 1).clamp_min(1)).sqrt()
    if published:
        from_mean = torch.where(group_size == 1, outcomes, from_mean)
    else:
        from_mean = torch.where((group_size == 1) | (task_size == 1), 0, from_mean)
    return from_mean / (std + eps)
