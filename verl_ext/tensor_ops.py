"""Masked reductions shared by the pure functions; the lowest layer, imports torch alone."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def outcome_scores(
    token_level_rewards: Float[Tensor, "batch time"], response_mask: Shaped[Tensor, "batch time"]
) -> Float[Tensor, " batch"]:
    """Sums each response's rewards over its sampled tokens; 0 for a fully masked response."""
    return torch.where(response_mask.bool(), token_level_rewards, 0).sum(-1)


def spread_over_tokens(
    scores: Float[Tensor, " batch"], response_mask: Shaped[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Copies one score per response onto its sampled tokens; masked tokens get 0."""
    return torch.where(response_mask.bool(), scores.unsqueeze(-1), 0)
