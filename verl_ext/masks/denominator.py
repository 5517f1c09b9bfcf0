"""What a withheld token leaves behind in the token mean of a loss: its place, or nothing.

Source: Shen et al., "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory
Management", 2025, https://arxiv.org/abs/2512.12967, equation 9.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import require_same_shape

DENOMINATORS = ("all", "kept")


@torch.no_grad()
def loss_inputs(
    advantages: Float[Tensor, "batch time"],
    response_mask: Shaped[Tensor, "batch time"],
    keep_mask: Shaped[Tensor, "batch time"],
    *,
    denominator: str = "all",
) -> tuple[Float[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """The advantages and the loss mask that make a token mean ignore what a mask withholds.

    Args:
        advantages: per token.
        response_mask: 1 on sampled tokens.
        keep_mask: 0 on tokens that are withheld; ignored elsewhere than on sampled tokens.
        denominator: ``"all"`` divides by all sampled tokens, so that masking never makes a step
            larger; ``"kept"`` by the tokens that are left, as if the others had not been sampled.

    Returns:
        Advantages, 0 where withheld or masked, and the tokens over which the loss is averaged.
        Under ``"all"`` other terms of the loss (KL, entropy bonus) still see withheld tokens.

    Raises:
        ValueError: ``denominator`` is neither, or the shapes differ.

    Degenerate: nothing kept leaves advantages of 0, and under ``"kept"`` a mask without a True,
    whose mean is 0/0: skip the update.

    Deviations: the paper's is ``"all"``; the authors' README removes the rows, which is ``"kept"``.
    """
    require_denominator(denominator)
    require_same_shape(advantages=advantages, response_mask=response_mask, keep_mask=keep_mask)
    sampled = response_mask.bool()
    kept = sampled & keep_mask.bool()
    return torch.where(kept, advantages, 0), (sampled if denominator == "all" else kept)


def require_denominator(denominator: str) -> None:
    """Refuses, with a ValueError, a denominator that there is not."""
    if denominator not in DENOMINATORS:
        raise ValueError(
            f"denominator must be one of {', '.join(DENOMINATORS)}, got {denominator!r}"
        )
