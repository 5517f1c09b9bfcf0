"""The masks of ``algorithm.verl_ext.masks``, applied after the advantage in the order written."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from verl_ext.catalog import MASKS

Mask = Callable[[Tensor, Tensor], Tensor]


def build(settings: Mapping[str, Any] | None) -> dict[str, Mask]:
    """Name -> mask with its keyword arguments bound, in the order of the configuration."""
    return {
        name: partial(MASKS[name].function, **(arguments or {}))
        for name, arguments in (settings or {}).items()
    }


def apply(
    masks: Mapping[str, Mask], advantages: Tensor, response_mask: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Runs the masks one after the other, each on what the ones before it kept.

    Args:
        masks: from :func:`build`.
        advantages: (batch, time).
        response_mask: (batch, time), 1 = sampled token.

    Returns:
        The tokens to learn from, bool (batch, time), and for each mask the share of the tokens
        it saw that it kept.
    """
    keep = response_mask.bool()
    metrics = {}
    for name, mask in masks.items():
        seen = int(keep.sum())
        keep = keep & mask(advantages, keep)
        metrics[f"verl_ext/{name}/kept_share"] = int(keep.sum()) / seen if seen else 0.0
    return keep, metrics


def rows_to_train(keep: Tensor, lengths: list[int], multiple: int) -> list[int]:
    """Rows for the update: all that teach, and the shortest others to fill the last mini-batch.

    Packing the rows that teach means that no mini-batch is without any (its token mean would be
    0/0) and that the number of updates follows the amount of data, as when the other rows had been
    removed.

    Args:
        keep: bool (batch, time).
        lengths: tokens of each row, prompt included: what a filler row costs.
        multiple: rows of one mini-batch.

    Returns:
        Row numbers, ascending; their count is a multiple of ``multiple``.
    """
    teaches = keep.any(-1)
    rows = torch.nonzero(teaches).squeeze(-1).tolist()
    idle = sorted(torch.nonzero(~teaches).squeeze(-1).tolist(), key=lambda row: lengths[row])
    missing = -len(rows) % multiple
    return sorted(rows + idle[:missing])
