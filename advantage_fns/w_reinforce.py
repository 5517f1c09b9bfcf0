"""W-REINFORCE: learn mostly from mistakes, and a little from successes.

Source: Zhu et al., "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning",
2025, https://arxiv.org/abs/2506.01347.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import outcome_scores, spread_over_tokens


@torch.no_grad()
def w_reinforce(
    token_level_rewards: Float[Tensor, "batch time"],
    response_mask: Shaped[Tensor, "batch time"],
    *,
    positive_weight: float = 0.1,
    negative_weight: float = 1.0,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Gives a correct response the advantage +λ and a wrong one −μ; no baseline, no group.

    The paper's three methods are its corners: W-REINFORCE (λ, μ) = (0.1, 1), PSR (1, 0) and
    NSR (0, 1); (1, 1) is REINFORCE on ±1 rewards.

    Args:
        token_level_rewards: rewards whose row sums over sampled tokens are the outcomes
            rᵢ ∈ {0, 1}.
        response_mask: 1 on sampled tokens, 0 on padding and observations.
        positive_weight: λ ≥ 0, dimensionless; the advantage of a correct response.
        negative_weight: μ ≥ 0, dimensionless; minus the advantage of a wrong one. Not both 0.

    Returns:
        Advantages and returns, equal to each other, 0 where masked.

    Raises:
        ValueError: a weight is negative or not finite, both are 0, or an outcome is neither 0
            nor 1.

    Degenerate: a row without sampled tokens (padding) gets 0 everywhere; groups do not matter, so
    neither do groups of one or of equal outcomes.

    Deviations: γ is fixed at 1; the authors' code discounts, and they train with γ = 1. They
    remove the rows of advantage 0 from the batch (PSR, NSR); here the mask ``zero_advantage`` takes
    them out of the loss and its denominator.
    """
    weights = {"positive_weight": positive_weight, "negative_weight": negative_weight}
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name} must be finite and >= 0, got {weight}")
    if not any(weights.values()):
        raise ValueError("positive_weight and negative_weight are both 0: nothing would be learned")
    sampled = response_mask.bool()  # once, for both uses below
    outcomes = outcome_scores(token_level_rewards, sampled)
    correct = outcomes == 1
    valid = correct | (outcomes == 0)
    if not torch.all(valid):
        wrong = sorted(set(outcomes[~valid].tolist()))[:5]
        raise ValueError(
            f"outcomes must be 0 or 1, got {wrong}: use a reward function that gives 0 or 1 "
            "(string_composition's official scores are -1, 0 and 1; add "
            "reward.custom_reward_function.reward_kwargs.binary=true)"
        )
    # In the rewards' dtype from the start, or float64 would get λ rounded to float32.
    # 0 + λ and 0 − μ: a weight of 0, of either sign, gives the advantage +0.0.
    positive = outcomes.new_tensor(0.0 + positive_weight)
    negative = outcomes.new_tensor(0.0 - negative_weight)
    scores = torch.where(correct, positive, negative)
    advantages = spread_over_tokens(scores, sampled)
    return advantages, advantages
