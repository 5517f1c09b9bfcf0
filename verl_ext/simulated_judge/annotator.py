"""An annotator who knows the hidden quality of a response and is wrong in ways that can be set.

Source: Dubois et al., "AlpacaFarm: A Simulation Framework for Methods that Learn from Human
Feedback", 2023, https://arxiv.org/abs/2305.14387.
"""

import math
from dataclasses import dataclass, fields, replace

from verl_ext.simulated_judge.chance import gauss, uniform


@dataclass(frozen=True)
class Shown:
    """A response as the annotator knows it.

    Attributes:
        quality: hidden, in [0, 1].
        key: stands for its content; the same content, the same key.
    """

    quality: float
    key: str


@dataclass(frozen=True)
class Annotator:
    """How scores come from qualities; all but the probability in points.

    A response of quality q is worth low + q · (high − low). Then an offset of the call is added,
    noise of its own and, in a pair, the favour for the first place. The sum is rounded to the grid
    and kept within 0 and the best score. Nothing is drawn: the chance of a call is a hash of the
    seed and of what was shown.

    Attributes:
        noise: standard deviation of the noise of each response in each call. The two orders of a
            pair are two calls.
        calibration: standard deviation of the offset that the responses of a call share.
        flip: p ∈ [0, ½], the probability that a pair gets each other's scores. The same decision
            whichever response is shown first, so asking in both orders does not undo it. A response
            judged alone has nobody to change with.
        position_bias: what the first shown of a pair gets on top.
        resolution: distance of the scores that can be given; 0 for any.
        low: what the quality 0 is worth.
        high: what the quality 1 is worth; None for the best score.
        max_score: the best score.
        seed: of the whole annotator.

    Raises:
        ValueError: a value is not in its range.

    Deviations: AlpacaFarm seeds by the instruction alone, so that all pairs of a question are
    flipped together and (a, b) may be flipped where (b, a) is not; by both responses here. Its
    mixture, a fair coin in place of the label with probability 2p, is the flip with probability p.
    """

    noise: float = 0.0
    calibration: float = 0.0
    flip: float = 0.0
    position_bias: float = 0.0
    resolution: float = 0.0
    low: float = 0.0
    high: float | None = None
    max_score: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{field.name} must be finite, got {value}")
        for name in ("noise", "calibration", "resolution"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.flip <= 0.5:
            raise ValueError(
                f"flip must be in [0, 0.5], got {self.flip}: above, the flipped label is the truth"
            )
        if self.max_score <= 0:
            raise ValueError(f"max_score must be > 0, got {self.max_score}")
        if not 0 <= self.low < self.best <= self.max_score:
            raise ValueError(
                f"low and high must be 0 <= low < high <= {self.max_score:g}, "
                f"got low={self.low}, high={self.best}"
            )

    @property
    def best(self) -> float:
        """What the quality 1 is worth."""
        return self.max_score if self.high is None else self.high

    def asked(self, again: int) -> "Annotator":
        """The same annotator asked another time: other chance, the same habits.

        Args:
            again: the seed of the request; 0 for the first time.
        """
        return replace(self, seed=self.seed + again * 1_000_003) if again else self

    def pair(self, question: str, first: Shown, second: Shown) -> tuple[float, float]:
        """The scores of two responses seen side by side.

        Args:
            question: stands for the question's content.
            first: the response shown first.
            second: the response shown second.
        """
        call = [self.seed, question, first.key, second.key]
        offset = gauss(self.calibration, "calibration", *call)
        scores = [
            self._worth(shown) + offset + gauss(self.noise, "noise", place, *call)
            for place, shown in enumerate((first, second))
        ]
        if self.flips(question, first.key, second.key):
            scores.reverse()
        return self._given(scores[0] + self.position_bias), self._given(scores[1])

    def single(self, question: str, shown: Shown) -> float:
        """The score of a response seen alone.

        Args:
            question: stands for the question's content.
            shown: the response.
        """
        call = [self.seed, question, shown.key]
        offset = gauss(self.calibration, "calibration", *call)
        return self._given(self._worth(shown) + offset + gauss(self.noise, "noise", 0, *call))

    def flips(self, question: str, one: str, other: str) -> bool:
        """Whether two responses get each other's scores, whichever is named first.

        Args:
            question: stands for the question's content.
            one: the key of a response.
            other: of the other.
        """
        return uniform("flip", self.seed, question, sorted((one, other))) < self.flip

    def _worth(self, shown: Shown) -> float:
        if not 0 <= shown.quality <= 1:
            raise ValueError(f"a hidden quality must be in [0, 1], got {shown.quality}")
        return self.low + shown.quality * (self.best - self.low)

    def _given(self, score: float) -> float:
        if self.resolution:
            score = math.floor(score / self.resolution + 0.5) * self.resolution
        return min(max(score, 0.0), self.max_score)
