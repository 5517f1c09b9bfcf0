"""How many of a batch's tokens a stale sampler is worth."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import require_same_shape


@torch.no_grad()
def effective_sample_size(
    log_ratio: Float[Tensor, "batch time"], mask: Shaped[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """Kong's effective sample size of importance weights, as a share of the tokens.

        ESS = (Σ w)² / (N Σ w²)        w = exp(log π(token) − log μ(token))

    Over all N counted tokens at once; the mean over micro-batches is another number. PipelineRL
    (arXiv 2509.19128, section 5) reports it of weights that its loss has already cut off above,
    which hides the very tokens that lower it: here they are as they are.

    Args:
        log_ratio: log π − log μ, of the policy that is trained and of the one that sampled.
        mask: 1 on sampled tokens, 0 on padding and observations.

    Returns:
        A scalar in (0, 1], in float64: 1 where all weights are equal, 1 / N where one has all.

    Raises:
        ValueError: the shapes differ, no token is counted, or a counted log ratio is not finite.
    """
    require_same_shape(log_ratio=log_ratio, mask=mask)
    counted = log_ratio[mask.bool()].double()
    if not len(counted):
        raise ValueError("no token is counted: the mask is 0 everywhere")
    if not counted.isfinite().all():
        raise ValueError(
            f"{int((~counted.isfinite()).sum())} of {len(counted)} log ratios are NaN or infinite: "
            "look for a token that one of the two policies cannot sample"
        )
    # A common factor leaves the share as it is, and keeps the squares finite.
    weights = (counted - counted.max()).exp()
    share: Tensor = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
    return share.clamp(max=1.0)  # rounding
