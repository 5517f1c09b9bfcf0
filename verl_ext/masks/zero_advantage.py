"""Takes responses that cannot teach out of the loss and of its denominator.

Source: Zhu et al., "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning",
2025, https://arxiv.org/abs/2506.01347; the authors' code removes these rows from the batch.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


@torch.no_grad()
def keep_mask(
    advantages: Float[Tensor, "batch time"], response_mask: Shaped[Tensor, "batch time"]
) -> Bool[Tensor, "batch time"]:
    """Keeps the sampled tokens of rows that have an advantage other than 0 somewhere.

    PSR and NSR learn from a part of the batch. A token mean over all of it would scale their
    gradient with the accuracy: with 1 of 4 responses correct, PSR would learn at a quarter of the
    rate. Denominator: kept tokens.

    Args:
        advantages: per token; values at masked tokens are ignored.
        response_mask: 1 on sampled tokens.

    Returns:
        True on the tokens to learn from.

    Degenerate: all advantages 0 gives no True at all; the trainer then skips the update.

    Deviations: the rows stay in the batch, masked; the authors drop further rows at random to make
    the rest divisible by the number of GPUs, which masking does not need.
    """
    sampled = response_mask.bool()
    teaches = (torch.where(sampled, advantages, 0) != 0).any(-1, keepdim=True)
    return sampled & teaches
