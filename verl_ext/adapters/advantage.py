"""Pure advantage function -> estimator in verl's registry."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.catalog import ADVANTAGES

# verl's name for a batch field -> the name our functions use for it.
BATCH_FIELDS = {"index": "group_ids"}


def register(core_algos: Any) -> None:
    """Registers every estimator of the catalog under its prefixed name."""
    for name, entry in ADVANTAGES.items():
        core_algos.register_adv_est(name)(as_verl_estimator(entry.function))


def as_verl_estimator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a pure function into verl's calling convention.

    The subtree ``algorithm.verl_ext.advantage`` *is* the function's keyword arguments, so Python
    itself refuses an unknown one.
    """
    wanted = set(inspect.signature(function).parameters)

    @functools.wraps(function)
    def estimator(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        config: Mapping[str, Any] | None = None,
        **batch: Any,
    ) -> Any:
        settings = ((config or {}).get("verl_ext") or {}).get("advantage") or {}
        fields = {
            ours: batch[theirs]
            for theirs, ours in BATCH_FIELDS.items()
            if ours in wanted and theirs in batch
        }
        rewards = onto_sampled_tokens(token_level_rewards, response_mask)
        return function(rewards, response_mask, **fields, **settings)

    return estimator


def onto_sampled_tokens(
    token_level_rewards: Float[Tensor, "batch time"], response_mask: Shaped[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Moves rewards that stand on masked tokens to the row's last sampled token.

    verl puts the score on the last token of a response. When a multi-turn response is cut inside a
    tool's answer that token is masked, and a masked sum would turn a solved task into a failed one.
    Rows without any sampled token (verl's padding) keep their zeros.
    """
    sampled = response_mask.bool()
    stranded = torch.where(sampled, 0, token_level_rewards).sum(-1)
    if not torch.any(stranded != 0):
        return token_level_rewards
    positions = torch.arange(sampled.shape[-1], device=sampled.device)
    last = torch.where(sampled, positions, -1).amax(-1)
    rewards = torch.where(sampled, token_level_rewards, 0)
    rows = torch.nonzero(last >= 0).squeeze(-1)
    rewards[rows, last[rows]] += stranded[rows]
    return rewards
