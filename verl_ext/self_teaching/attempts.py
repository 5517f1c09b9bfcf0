"""Attempts at one question, counted up to the first that succeeds.

Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", 2026,
https://arxiv.org/abs/2601.20802, section on test-time self-distillation (discovery@k).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Attempts:
    """How many responses were sampled until one succeeded.

    The responses of a step are counted in the order in which they were begun, so that the number
    is what a sampler of one response at a time would have needed: it goes beside best-of-k.

    Attributes:
        success_threshold: a score of at least this much is a success.
        count: responses up to the first success and with it, or all so far.
        solved: whether there was one.

    Raises:
        ValueError: the threshold is not finite.
    """

    success_threshold: float = 0.5
    count: int = 0
    solved: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.success_threshold):
            raise ValueError(f"success_threshold must be finite, got {self.success_threshold}")

    def see(self, scores: Sequence[float]) -> int | None:
        """Counts the responses of a step.

        Args:
            scores: one per response, in that order.

        Returns:
            The place of the first success among them, None if there is none. After a success
            nothing is counted any more.

        Raises:
            ValueError: a score is NaN or infinite.
        """
        for place, score in enumerate(scores):
            if not math.isfinite(score):
                raise ValueError(f"scores must be finite, got {score}: mend the reward")
            if self.solved:
                continue
            self.count += 1
            if score >= self.success_threshold:
                self.solved = True
                return place
        return None
