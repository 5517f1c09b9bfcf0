"""How a judge is to score: in sentences, and by criteria with weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Criterion:
    """One of the things a judge looks at.

    Attributes:
        name: in a word or two.
        weight: of this criterion among all, in any unit.
        description: what to look for; "" for none.

    Raises:
        ValueError: the name is empty, or the weight is not a finite number above 0.
    """

    name: str
    weight: float = 1.0
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("a criterion's name must not be empty")
        if isinstance(self.weight, bool) or not 0 < self.weight < float("inf"):
            raise ValueError(f"weight of {self.name!r} must be finite and > 0, got {self.weight}")


@dataclass(frozen=True)
class Rubric:
    """How a judge is to score.

    Attributes:
        text: what a good response is, in sentences.
        criteria: what counts how much; none leaves it to the text.
        max_score: of one response; the least is 0.

    Raises:
        ValueError: the text is empty, two criteria have one name, or the score is not above 0.
    """

    text: str
    criteria: tuple[Criterion, ...] = ()
    max_score: float = 10

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("rubric must not be empty")
        names = [criterion.name for criterion in self.criteria]
        if len(set(names)) < len(names):
            raise ValueError(f"criteria must have different names, got {', '.join(names)}")
        if not 0 < self.max_score < float("inf"):
            raise ValueError(f"max_score must be finite and > 0, got {self.max_score}")
