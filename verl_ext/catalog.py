"""Everything verl-ext registers, by name. Pure: no verl, no configuration.

One dictionary per extension point; a new method is one entry here (``docs/adding_a_paper.md``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verl_ext.advantage_fns.w_reinforce import w_reinforce
from verl_ext.masks import zero_advantage


@dataclass(frozen=True)
class Plugin:
    """A function that verl can be told to use.

    Attributes:
        function: pure; its keyword-only parameters are the keys of its configuration.
        summary: what it does to learning, in a few words.
        needs: what it asks of the run, in words; empty if nothing.
        line: what to type.
        binary_outcomes: it refuses outcomes other than 0 and 1.
    """

    function: Callable[..., Any]
    summary: str
    line: str
    needs: str = ""
    binary_outcomes: bool = False


@dataclass(frozen=True)
class Paper:
    """A paper as an overlay.

    Attributes:
        title: of the paper.
        url: where it is.
        summary: what the overlay does, in a few words.
        needs: what it asks of the run, in words.
    """

    title: str
    url: str
    summary: str
    needs: str = ""


ADVANTAGES: dict[str, Plugin] = {
    "verl_ext.w_reinforce": Plugin(
        function=w_reinforce,
        summary="+λ for a correct response, −μ for a wrong one; no baseline",
        line="algorithm.adv_estimator=verl_ext.w_reinforce",
        needs="rewards of 0 or 1",
        binary_outcomes=True,
    ),
}

MASKS: dict[str, Plugin] = {
    "zero_advantage": Plugin(
        function=zero_advantage.keep_mask,
        summary="rows of advantage 0 leave the loss and its denominator",
        line="+algorithm.verl_ext.masks.zero_advantage={} trainer.v1.trainer_mode=verl_ext.sync",
        needs="a verl_ext.* trainer, loss_agg_mode=token-mean",
    ),
}

_NEGATIVE = "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning"
_NEGATIVE_URL = "https://arxiv.org/abs/2506.01347"

PAPERS: dict[str, Paper] = {
    "w_reinforce": Paper(
        _NEGATIVE, _NEGATIVE_URL, "mistakes at full weight, successes at 0.1", "rewards of 0 or 1"
    ),
    "psr": Paper(_NEGATIVE, _NEGATIVE_URL, "learns from successes alone", "rewards of 0 or 1"),
    "nsr": Paper(_NEGATIVE, _NEGATIVE_URL, "learns from mistakes alone", "rewards of 0 or 1"),
}
