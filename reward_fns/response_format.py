"""The format of a response, reasoning and answer each between tags, and what it is worth.

Source: Yu et al., "RLPR: Extrapolating RLVR to General Domains without Verifiers", 2025,
https://arxiv.org/abs/2506.18254; weights and strictness from https://github.com/OpenBMB/RLPR.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import require_same_shape


@dataclass(frozen=True)
class Tags:
    """What encloses the reasoning and the answer.

    Attributes:
        think: opening and closing tag of the reasoning; empty where it needs none (the authors'
            format for Llama and Gemma).
        answer: opening and closing tag of the answer.

    Raises:
        ValueError: these are not pairs of texts, or one tag is empty or part of another, so that
            it could not be counted.
    """

    think: Sequence[str] = ("<think>", "</think>")
    answer: Sequence[str] = ("<answer>", "</answer>")

    def __post_init__(self) -> None:
        for name, pair, sizes in (("think", self.think, (0, 2)), ("answer", self.answer, (2,))):
            if isinstance(pair, str) or len(pair) not in sizes:
                raise ValueError(f"{name} must be an opening and a closing tag, got {pair!r}")
        tags = self.all
        for number, tag in enumerate(tags):
            if any(tag in other for other in (*tags[:number], *tags[number + 1 :])):
                raise ValueError(f"no tag may be empty or part of another, got {list(tags)}")

    @property
    def all(self) -> tuple[str, ...]:
        """The tags in the order in which a response must have them."""
        return (*self.think, *self.answer)


THINK_ANSWER = Tags()
ANSWER_ONLY = Tags(think=())


def answer_start(response: str, *, tags: Tags = THINK_ANSWER) -> int | None:
    """Where the answer begins: right after its opening tag; None where the format is invalid.

    Valid is a response with each tag of the reasoning and the opening tag of the answer exactly
    once, in this order. Text before and between is allowed, and the answer need not be closed.

    Args:
        response: decoded. Where the chat template opens the reasoning, prepend that tag.
        tags: to look for.

    Returns:
        A number of characters, at most the response's length, or None.
    """
    return _end_if_once_in_order(response, tags.all[:-1])


def format_reward(response: str, *, tags: Tags = THINK_ANSWER) -> float:
    """1 for a response in the format, else 0; stricter than :func:`answer_start`.

    In the format is a response with all tags exactly once, in order, that begins with the opening
    tag of the reasoning. Text between, and after the answer, is allowed; without tags for the
    reasoning, text before the answer too.

    Args:
        response: decoded; an end-of-sequence text at its end does no harm.
        tags: to look for.

    Returns:
        0.0 or 1.0. Empty reasoning and an empty answer are in the format.

    Deviations: none.
    """
    begins = not tags.think or response.startswith(tags.think[0])
    return float(begins and _end_if_once_in_order(response, tags.all) is not None)


def _end_if_once_in_order(response: str, tags: Sequence[str]) -> int | None:
    """The end of the last tag if each occurs exactly once and after the one before."""
    end = 0
    for tag in tags:
        start = response.find(tag, end)
        if start < 0 or response.count(tag) != 1:
            return None
        end = start + len(tag)
    return end


@torch.no_grad()
def format_mixed(
    rewards: Float[Tensor, " batch"],
    format_rewards: Shaped[Tensor, " batch"],
    *,
    weight: float = 0.1,
) -> Float[Tensor, " batch"]:
    """A reward mixed with that for the format: (1 − c) · r + c · f.

    Args:
        rewards: r, such as the debiased probability reward, in [0, 1].
        format_rewards: f ∈ {0, 1}, of :func:`format_reward`.
        weight: c in [0, 1]; 0 leaves r alone, 1 rewards nothing but the format.

    Returns:
        Rewards in the range of r and f.

    Raises:
        ValueError: c is not in [0, 1], the shapes differ, or a format reward is neither 0 nor 1.

    Deviations: none from the authors' code (c = 0.1); the paper's equations have no such mix.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in [0, 1], got {weight}")
    _require_format_rewards(rewards, format_rewards)
    return (1 - weight) * rewards + weight * format_rewards.to(rewards.dtype)


@torch.no_grad()
def format_gated(
    rewards: Float[Tensor, " batch"],
    format_rewards: Shaped[Tensor, " batch"],
    *,
    penalty: float = 1.0,
) -> Float[Tensor, " batch"]:
    """A reward that counts in the format alone: r where f = 1, −penalty elsewhere.

    Args:
        rewards: r, such as the debiased probability reward, in [0, 1].
        format_rewards: f ∈ {0, 1}, of :func:`format_reward`.
        penalty: ≥ 0, in units of the reward.

    Returns:
        Rewards in the range of r, or −penalty.

    Raises:
        ValueError: the penalty is not finite and ≥ 0, the shapes differ, or a format reward is
            neither 0 nor 1.

    Deviations: none; the authors' code does this for a weight of −1.
    """
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"penalty must be finite and >= 0, got {penalty}")
    _require_format_rewards(rewards, format_rewards)
    return torch.where(format_rewards.bool(), rewards, -penalty)


def _require_format_rewards(
    rewards: Float[Tensor, " batch"], format_rewards: Shaped[Tensor, " batch"]
) -> None:
    """Refuses shapes that differ, and format rewards other than 0 and 1."""
    require_same_shape(rewards=rewards, format_rewards=format_rewards)
    wrong = format_rewards[(format_rewards != 0) & (format_rewards != 1)]
    if len(wrong):
        raise ValueError(f"format_rewards must be 0 or 1, got {sorted(set(wrong.tolist()))}")
