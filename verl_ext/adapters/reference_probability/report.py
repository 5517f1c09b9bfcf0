"""What a rollout worker tells the trainer of a row that it has rewarded, or prepared for that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_ext.reward_fns.splice import Outcome

REPORT = "verl_ext_reference_probability"  # in a row's extra_fields
SHOWN = ("probability", "base", "gain", "format", "repetition")


@dataclass(frozen=True)
class Pending:
    """What the trainer is to ask its engine.

    Attributes:
        response: decoded, with what the prompt has opened.
        token_ids: of the spliced response.
        reference: for each of them, is it the reference's?
        base: b.
    """

    response: str
    token_ids: Sequence[int]
    reference: Sequence[bool]
    base: float


@dataclass(frozen=True)
class Report:
    """A dictionary in the row's ``extra_fields``.

    Attributes:
        weights: of the two rewards.
        verifier: verl's own reward; None where it was not asked.
        parts: of ours, ``reward_fns.reference_reward.Parts``; None while it is pending.
        pending: ``Pending``; None once it is scored.
    """

    weights: Mapping[str, float]
    verifier: float | None = None
    parts: Mapping[str, Any] | None = None
    pending: Mapping[str, Any] | None = None


def total(report: Report) -> float:
    """The row's reward: both, by their weights."""
    assert report.parts is not None
    ours: float = report.weights["probability"] * report.parts["reward"]
    return ours + report.weights["verifier"] * (report.verifier or 0.0)


def extra_info(report: Report) -> dict[str, float | str]:
    """For ``reward_extra_info``: the parts, the verifier's reward, and the outcome in a word."""
    if report.parts is None:
        return {}
    parts = {name: float(report.parts[name]) for name in SHOWN}
    verified = {} if report.verifier is None else {"verifier": report.verifier}
    return {**parts, **verified, "outcome": Outcome(report.parts["outcome"]).value}
