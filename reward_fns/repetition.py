"""A penalty for a response that goes round in circles.

Source: Yu et al., "RLPR: Extrapolating RLVR to General Domains without Verifiers", 2025,
https://arxiv.org/abs/2506.18254; the rule from https://github.com/OpenBMB/RLPR.
"""

from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor

from verl_ext.tensor_ops import require_same_shape


def repetition_penalty(
    response: str, *, ngram_size: int = 10, min_count: int = 10, penalty: float = 1.0
) -> float:
    """−penalty if any n-gram of words occurs at least ``min_count`` times, else 0.

    Args:
        response: decoded; words end at white space and at underscores.
        ngram_size: words of an n-gram, ≥ 1; occurrences may overlap, so that one word repeated
            n + min_count − 1 times is enough.
        min_count: occurrences, ≥ 2.
        penalty: ≥ 0, in units of the reward.

    Returns:
        −penalty or 0.0, to be added to the reward.

    Raises:
        ValueError: a parameter is outside the range above.

    Degenerate: a response of fewer words than an n-gram, or of none, repeats nothing.

    Deviations: a run of underscores is one gap between words; the authors' code finds empty words
    in it, and takes a line of blanks to fill in for a repetition.
    """
    if ngram_size < 1 or min_count < 2:
        raise ValueError(
            "ngram_size must be >= 1 and min_count >= 2, got "
            f"ngram_size={ngram_size}, min_count={min_count}"
        )
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"penalty must be finite and >= 0, got {penalty}")
    words = response.replace("_", " ").split()
    ngrams = Counter(
        tuple(words[start : start + ngram_size]) for start in range(len(words) - ngram_size + 1)
    )
    return -penalty if max(ngrams.values(), default=0) >= min_count else 0.0


@torch.no_grad()
def repetition_penalized(
    rewards: Float[Tensor, " batch"],
    penalties: Float[Tensor, " batch"],
    *,
    nonzero_only: bool = False,
) -> Float[Tensor, " batch"]:
    """Adds each response's repetition penalty to its reward.

    Args:
        rewards: of each response, the format's included.
        penalties: of :func:`repetition_penalty`, ≤ 0.
        nonzero_only: leaves a reward of exactly 0 as it is, as the authors' code does: a response
            without any merit may then repeat itself at no cost.

    Returns:
        Rewards, in the dtype of ``rewards``.

    Raises:
        ValueError: the shapes differ, or a penalty is NaN or above 0.

    Deviations: a reward of 0 is penalised as well, unless ``nonzero_only``.
    """
    require_same_shape(rewards=rewards, penalties=penalties)
    if not (penalties <= 0).all():
        raise ValueError(f"penalties must be <= 0, got {penalties.tolist()}")
    penalized = rewards + penalties.to(rewards.dtype)
    return torch.where(rewards == 0, rewards, penalized) if nonzero_only else penalized
