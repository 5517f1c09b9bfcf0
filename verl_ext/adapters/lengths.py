"""Long sequences: how many GPUs share one, and whether one fits a forward pass at all.

The number is FSDP's Ulysses size and Megatron's context parallel size. Neither key may stand in a
task's overlay (the other engine does not know it), and the two differ for one task: a Megatron
rank has its tensor-parallel neighbours to help. So a task sets lengths alone, an engine's file
says how many tokens its GPU takes, and the number follows.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.adapters.errors import SettingsError

GPUS, TOKENS = "verl_ext_sequence_gpus", "verl_ext_sequence_tokens"
ACTOR = "actor_rollout_ref.actor"


def register_resolvers() -> None:
    """Makes ``${verl_ext_sequence_gpus:TOKENS,MOST}`` and ``${verl_ext_sequence_tokens:}``.

    The first is :func:`gpus_per_sequence` of the run's longest sequence, the second its length; a
    number behind its colon is added.
    """
    OmegaConf.register_new_resolver(GPUS, _gpus, replace=True)
    OmegaConf.register_new_resolver(TOKENS, _tokens, replace=True)


def gpus_per_sequence(length: int, tokens: int, most: int) -> int:
    """The fewest GPUs that hold a sequence together.

    Args:
        length: tokens of prompt and response.
        tokens: tokens that one GPU takes in a forward pass.
        most: GPUs there are to share a sequence.

    Returns:
        The smallest divisor of ``most`` that suffices, so that sizes keep dividing the machine;
        ``most`` itself if none does, which :func:`check` then refuses in words.

    Raises:
        ValueError: a number is not positive.
    """
    if min(length, tokens, most) < 1:
        raise ValueError(f"{GPUS}: needs positive numbers, got {length}, {tokens} and {most}")
    divisors = (n for n in range(1, most + 1) if most % n == 0)
    return next((n for n in divisors if n * tokens >= length), most)


def check(config: DictConfig, settings: Mapping[str, Any]) -> None:
    """Refuses lengths that verl would stop at in the middle of a step, at the first full sequence.

    Args:
        config: verl's whole configuration.
        settings: its subtree ``algorithm.verl_ext``; without it the run is none of ours.

    Raises:
        SettingsError: the longest sequence is above tokens a GPU times GPUs a sequence.
    """
    found = shared(config.actor_rollout_ref)
    if not settings or found is None:
        return
    key, gpus = found
    length = longest_sequence(config)
    more = gpus < config.trainer.n_gpus_per_node * config.trainer.nnodes
    share = f"or share a sequence between more GPUs ({key}), " if more else ""
    for budget_key, budget in _budgets(config.actor_rollout_ref):
        if budget * gpus < length:
            raise SettingsError(
                f"data.max_prompt_length + data.max_response_length = {length} tokens do not fit "
                f"{budget_key}={budget} x {key}={gpus}: verl stops at the first full sequence. "
                f"Shorten data.max_response_length, {share}or give a GPU more tokens: "
                f"{budget_key}={math.ceil(length / gpus)}, if they fit "
                "(docs/scales.md has the arithmetic)"
            )


def longest_sequence(config: DictConfig) -> int:
    """Tokens of the longest prompt and the longest response together."""
    return int(config.data.max_prompt_length) + int(config.data.max_response_length)


def _gpus(tokens: int, most: int, *, _root_: Any) -> int:
    return gpus_per_sequence(longest_sequence(_root_), int(tokens), int(most))


def _tokens(more: str | int = 0, *, _root_: Any) -> int:
    return longest_sequence(_root_) + int(more or 0)


def shared(roles: Any) -> tuple[str, int] | None:
    """Key and value of the number of GPUs that share a sequence; None where verl decides it.

    Args:
        roles: verl's section ``actor_rollout_ref``.
    """
    actor = roles.actor
    if actor.strategy == "megatron":
        if actor.megatron.dynamic_context_parallel:
            return None
        return f"{ACTOR}.megatron.context_parallel_size", actor.megatron.context_parallel_size
    if actor.strategy in ("fsdp", "fsdp2"):
        engine = actor.fsdp_config.get("ulysses_sequence_parallel_size", 1)
        return f"{ACTOR}.ulysses_sequence_parallel_size", max(
            actor.ulysses_sequence_parallel_size, engine
        )
    return None


def _budgets(roles: Any) -> Iterator[tuple[str, int]]:
    """Key and value of each limit on the tokens of a forward pass, the actor's first."""
    if roles.actor.use_dynamic_bsz:
        yield f"{ACTOR}.ppo_max_token_len_per_gpu", roles.actor.ppo_max_token_len_per_gpu
    for role in ("rollout", "ref"):
        if roles[role].log_prob_use_dynamic_bsz:
            key = f"actor_rollout_ref.{role}.log_prob_max_token_len_per_gpu"
            yield key, roles[role].log_prob_max_token_len_per_gpu
