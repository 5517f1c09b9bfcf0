"""How well one number tells two kinds apart, or follows another: by ranks alone.

What is asked of a reward before it is trained on: does it order responses as the truth would, and
does it order them by something else?
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import require_finite, require_same_shape


@torch.no_grad()
def ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The place of each value among all, from 1 in ascending order; equals share their mean place.

    Args:
        values: finite.

    Returns:
        Ranks in float64, which sum to n (n + 1) / 2.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    require_finite("values", values, "leave out what has no value")
    _, group, sizes = torch.unique(values, return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    places: Tensor = (last - (sizes.double() - 1) / 2)[group]
    return places


@torch.no_grad()
def auc(scores: Float[Tensor, " n"], positive: Shaped[Tensor, " n"]) -> float:
    """The area under the ROC curve: how often a positive scores above a negative.

        (#(s₊ > s₋) + ½ #(s₊ = s₋)) / (n₊ n₋)

    Computed from the ranks (Mann and Whitney, 1947): (Σ₊ rank − n₊ (n₊ + 1) / 2) / (n₊ n₋).

    Args:
        scores: finite; any monotone change of them leaves the area as it is.
        positive: 1 for the positives, 0 for the others.

    Returns:
        A number in [0, 1]; 0.5 for scores that tell nothing.

    Raises:
        ValueError: the shapes differ, a score is NaN or infinite, a label is neither 0 nor 1, or
            there is only one kind: the area is then undefined.
    """
    require_same_shape(scores=scores, positive=positive)
    if not ((positive == 0) | (positive == 1)).all():
        raise ValueError(f"positive must be 0 or 1, got {sorted(set(positive.tolist()))[:5]}")
    chosen = positive.bool()
    count, others = int(chosen.sum()), int((~chosen).sum())
    if not count or not others:
        raise ValueError(f"auc needs both kinds, got {count} positives and {others} others")
    above = ranks(scores)[chosen].sum().item() - count * (count + 1) / 2
    return float(above / (count * others))


@torch.no_grad()
def spearman(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> float:
    """Spearman's correlation: Pearson's of the ranks.

    Args:
        first: finite.
        second: finite.

    Returns:
        A number in [−1, 1]; 1 where one rises with the other.

    Raises:
        ValueError: the shapes differ, a value is NaN or infinite, or all of one are equal: the
            correlation is then undefined.
    """
    require_same_shape(first=first, second=second)
    left, right = (ranks(values) for values in (first, second))
    left, right = left - left.mean(), right - right.mean()
    scale = (left.square().sum() * right.square().sum()).sqrt().item()
    if not scale:
        raise ValueError("spearman needs numbers that differ, all of one kind are equal")
    return float((left * right).sum().item() / scale)
