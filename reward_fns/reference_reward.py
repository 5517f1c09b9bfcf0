"""RLPR's reward of one response, made of its parts.

    r = (1 − c) · clip(f − b, 0, 1) + c · format + repetition

f is the probability of the reference after the response's reasoning, b the one without reasoning.

Source: Yu et al., "RLPR: Extrapolating RLVR to General Domains without Verifiers", 2025,
https://arxiv.org/abs/2506.18254, section 2; c, the format and the penalty are those of
https://github.com/OpenBMB/RLPR.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from verl_ext.reward_fns.reference_probability import (
    REDUCTIONS,
    InvalidLogProbs,
    debias,
    probability_reward,
)
from verl_ext.reward_fns.repetition import repetition_penalized, repetition_penalty
from verl_ext.reward_fns.response_format import (
    THINK_ANSWER,
    Tags,
    format_gated,
    format_mixed,
    format_reward,
)
from verl_ext.reward_fns.splice import Outcome


@dataclass(frozen=True)
class Format:
    """What the format is worth.

    Attributes:
        weight: c in [0, 1], see :func:`~verl_ext.reward_fns.response_format.format_mixed`.
        gate: −1 for a response that is not in the format, and no mix: the authors' c = −1.

    Raises:
        ValueError: the weight is outside its range, or has no effect beside the gate.
    """

    weight: float = 0.1
    gate: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must be in [0, 1], got {self.weight}")
        if self.gate and self.weight:
            raise ValueError(f"weight={self.weight} has no effect with gate: set it to 0")


@dataclass(frozen=True)
class Repetition:
    """When a response repeats itself, and what that costs.

    Attributes:
        ngram_size: words; as the next two, see
            :func:`~verl_ext.reward_fns.repetition.repetition_penalty`.
        min_count: occurrences of one n-gram from which on the response is punished.
        penalty: ≥ 0, in units of the reward.
        nonzero_only: rewards of exactly 0 go unpunished, as in the authors' code.

    Raises:
        ValueError: a value is outside its range.
    """

    ngram_size: int = 10
    min_count: int = 10
    penalty: float = 1.0
    nonzero_only: bool = False

    def __post_init__(self) -> None:
        self.penalty_of("")

    def penalty_of(self, response: str) -> float:
        """−penalty or 0."""
        return repetition_penalty(
            response,
            ngram_size=self.ngram_size,
            min_count=self.min_count,
            penalty=self.penalty,
        )


@dataclass(frozen=True)
class Parts:
    """What a response's reward is made of.

    Attributes:
        outcome: of the probability; without one (neither ``OK`` nor ``INVALID_FORMAT``) there is
            no reward.
        probability: f, 0 for an invalid format.
        base: b, 0 where nothing is subtracted.
        gain: clip(f − b, 0, 1), or f where nothing is subtracted.
        below_base: whether f < b, so that the gain was clipped.
        format: 0 or 1.
        repetition: ≤ 0.
        reward: of these.
    """

    outcome: Outcome
    probability: float = 0.0
    base: float = 0.0
    gain: float = 0.0
    below_base: bool = False
    format: float = 0.0
    repetition: float = 0.0
    reward: float = math.nan

    @property
    def scored(self) -> bool:
        """Whether there is a reward."""
        return self.outcome in (Outcome.OK, Outcome.INVALID_FORMAT)


@dataclass(frozen=True)
class ReferenceReward:
    """The reward's rule.

    Attributes:
        reduction: of the reference's token probabilities, see
            :func:`~verl_ext.reward_fns.reference_probability.probability_reward`.
        debias: whether b is subtracted.
        tags: of the reasoning and the answer.
        format: what the format is worth.
        repetition: what repetition costs; None for nothing.

    Raises:
        ValueError: the reduction is unknown, or a mean log-probability is not debiased: all are
            negative, and a response in no format, at 0, would be the best.
    """

    reduction: str = "mean"
    debias: bool = True
    tags: Tags = THINK_ANSWER
    format: Format = field(default_factory=Format)
    repetition: Repetition | None = field(default_factory=Repetition)

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(
                f"reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}"
            )
        if self.reduction == "mean_log_prob" and not self.debias:
            raise ValueError(
                "reduction=mean_log_prob needs debias: its rewards are negative, and a response "
                "in no format, at 0, would be the best"
            )

    def score(self, log_probs: Sequence[float]) -> float:
        """The probability of a reference, from the log-probs of its tokens in nats.

        Raises:
            InvalidLogProbs: one is none; see :func:`~.reference_probability.probability_reward`.
        """
        row = torch.tensor([list(log_probs)], dtype=torch.float64)
        return probability_reward(row, torch.ones_like(row), reduction=self.reduction).item()

    def parts(
        self, response: str, outcome: Outcome, log_probs: Sequence[float] = (), base: float = 0.0
    ) -> Parts:
        """The reward of a response and what it is made of.

        Args:
            response: decoded, with what the prompt has opened in front (``opened_by``).
            outcome: of the splice.
            log_probs: of the reference's tokens, in nats; where the outcome is ``OK``.
            base: b.

        Raises:
            ValueError: the base is not finite.
        """
        made = Parts(outcome, base=base if self.debias else 0.0)
        if not made.scored:
            return made
        if outcome is Outcome.OK:
            try:
                probability = self.score(log_probs)
            except InvalidLogProbs:
                return replace(made, outcome=Outcome.INVALID_LOG_PROB)
            gain = debias(probability, base).item() if self.debias else probability
            made = replace(
                made,
                probability=probability,
                gain=gain,
                below_base=self.debias and probability < base,
            )
        in_format = format_reward(response, tags=self.tags)
        penalty = self.repetition.penalty_of(response) if self.repetition else 0.0
        return replace(
            made,
            format=in_format,
            repetition=penalty,
            reward=self._reward(made.gain, in_format, penalty),
        )

    def _reward(self, gain: float, in_format: float, penalty: float) -> float:
        gains, formats, penalties = (
            torch.tensor([value], dtype=torch.float64) for value in (gain, in_format, penalty)
        )
        if self.format.gate:
            mixed = format_gated(gains, formats)
        else:
            mixed = format_mixed(gains, formats, weight=self.format.weight)
        nonzero_only = self.repetition is not None and self.repetition.nonzero_only
        return repetition_penalized(mixed, penalties, nonzero_only=nonzero_only).item()
