"""Masked reductions shared by the pure functions; the lowest layer, imports torch alone."""

from collections.abc import Collection, Hashable

import torch
from jaxtyping import Bool, Float, Int64, Shaped
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


def label_index(
    name: str, labels: Collection[Hashable], rows: int, device: torch.device
) -> Int64[Tensor, " batch"]:
    """Numbers the labels 0, 1, … in order of appearance, one number per row.

    Args:
        name: of the parameter, for the error.
        labels: one hashable per row: a list, an array or a one-dimensional tensor.
        rows: how many there must be.
        device: of the result.

    Raises:
        ValueError: there are more or fewer labels than rows, or a label is NaN, which would be a
            group of its own each time.
    """
    # Elements of a tensor are hashed by identity: each would be a label of its own.
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if len(values) != rows:
        raise ValueError(f"{name} must have one label per row: {rows} rows, {len(values)} labels")
    for row, value in enumerate(values):
        if value != value:  # NaN, of whatever type
            raise ValueError(f"{name} must not be NaN, but is in row {row}")
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(value, len(numbers)) for value in values]
    return torch.tensor(index, dtype=torch.int64, device=device)


def centred(
    values: Float[Tensor, " batch"], index: Int64[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Values minus the mean of those with the same index, and how many there are of them.

    Measured from the lowest of them: equal values then differ by exactly 0, where the rounded mean
    of three times 0.1 is not 0.1 and a deviation of rounding errors would be divided by an ε.
    """
    lowest = torch.zeros_like(values)
    lowest.scatter_reduce_(0, index, values, "amin", include_self=False)
    above = values - lowest[index]
    size = sums_over(torch.ones_like(values), index)
    return above - sums_over(above, index) / size, size


def sums_over(
    values: Float[Tensor, " batch"], index: Int64[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """For each row the sum over the rows with the same index, which is below their number."""
    return torch.zeros_like(values).index_add_(0, index, values)[index]


def require_same_shape(**tensors: Tensor) -> None:
    """Refuses tensors that torch would broadcast against each other without a word.

    Raises:
        ValueError: their shapes differ; each is named with its own.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes must be equal, got {shapes}")


def require_finite(name: str, values: Float[Tensor, " batch"], advice: str) -> None:
    """Refuses rows that are NaN or infinite, one value per row, before they reach others.

    Raises:
        ValueError: with the numbers and values of the first such rows, and the advice.
    """
    bad = torch.nonzero(~torch.isfinite(values)).flatten().tolist()
    if bad:
        shown = ", ".join(f"row {row}: {values[row].item()}" for row in bad[:8])
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise ValueError(f"{name} must be finite, got {shown}{more}: {advice}")


def finite_or(
    values: Float[Tensor, "*shape"], replacement: float
) -> tuple[Float[Tensor, "*shape"], Bool[Tensor, "*shape"]]:
    """Replaces NaN and infinities.

    Args:
        values: anything.
        replacement: what stands in their place.

    Returns:
        The values, and where they were replaced.
    """
    broken = ~values.isfinite()
    return torch.where(broken, replacement, values), broken
