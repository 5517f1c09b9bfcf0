"""Everything verl-ext registers, by name. Pure: no verl, no configuration.

One dictionary per extension point; a new method is one entry here (``CONTRIBUTING.md``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verl_ext.advantage_fns.w_reinforce import w_reinforce
from verl_ext.masks import zero_advantage


@dataclass(frozen=True)
class Paper:
    """A paper as an overlay, ``+paper=<name>``.

    Attributes:
        title: of the paper.
        url: where it is.
        summary: what the overlay does to learning, in a few words.
        line: what to type.
        requires: what it asks of the run, in words; empty if nothing.
    """

    title: str
    url: str
    summary: str
    line: str
    requires: str = ""


@dataclass(frozen=True)
class Plugin:
    """A function that verl can be told to use.

    Attributes:
        function: pure; its keyword-only parameters are the keys of its configuration.
        title: of the paper it comes from.
        url: where that paper is.
        summary: what it does to learning, in a few words.
        line: what to type to use it without an overlay.
        overlays: the overlays that use it.
        needs: batch fields it takes by keyword beside its positional tensors, by our names.
        requires: what it asks of the run, in words; empty if nothing.
        binary_outcomes: it refuses outcomes other than 0 and 1.
    """

    function: Callable[..., Any]
    title: str
    url: str
    summary: str
    line: str
    overlays: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    requires: str = ""
    binary_outcomes: bool = False


_RUN = "python -m verl.trainer.main_ppo"
_BINARY = "rewards of 0 or 1"
_NEGATIVE = "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning"
_NEGATIVE_URL = "https://arxiv.org/abs/2506.01347"

ADVANTAGES: dict[str, Plugin] = {
    "verl_ext.w_reinforce": Plugin(
        function=w_reinforce,
        title=_NEGATIVE,
        url=_NEGATIVE_URL,
        summary="+λ for a correct response, −μ for a wrong one; no baseline, no group",
        line="algorithm.adv_estimator=verl_ext.w_reinforce",
        overlays=("w_reinforce", "psr", "nsr"),
        requires=_BINARY,
        binary_outcomes=True,
    ),
}

MASKS: dict[str, Plugin] = {
    "zero_advantage": Plugin(
        function=zero_advantage.keep_mask,
        title=_NEGATIVE,
        url=_NEGATIVE_URL,
        summary="rows of advantage 0 leave the loss and its denominator",
        line="+algorithm.verl_ext.masks.zero_advantage={} trainer.v1.trainer_mode=verl_ext.sync",
        overlays=("psr", "nsr"),
        requires="a verl_ext.* trainer, actor_rollout_ref.actor.loss_agg_mode=token-mean",
    ),
}

PAPERS: dict[str, Paper] = {
    "w_reinforce": Paper(
        title=_NEGATIVE,
        url=_NEGATIVE_URL,
        summary="learns from mistakes at full weight, from successes at a tenth",
        line=f"{_RUN} +paper=w_reinforce +scale=cpu",
        requires=_BINARY,
    ),
    "psr": Paper(
        title=_NEGATIVE,
        url=_NEGATIVE_URL,
        summary="learns from successes alone",
        line=f"{_RUN} +paper=psr +scale=cpu",
        requires=_BINARY,
    ),
    "nsr": Paper(
        title=_NEGATIVE,
        url=_NEGATIVE_URL,
        summary="learns from mistakes alone",
        line=f"{_RUN} +paper=nsr +scale=cpu",
        requires=_BINARY,
    ),
}
