"""What the benchmarks that judge themselves share: a ratio measured in one run, and its bar."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A ratio of two things measured side by side, and the most that it may be.

    Attributes:
        what: of what to what.
        ratio: as measured.
        most: the bar.
        command: what measures it.
        steady: whether other work on the machine leaves it as it is.
    """

    what: str
    ratio: float
    most: float
    command: str
    steady: bool = True

    @property
    def held(self) -> bool:
        """Whether the bar is kept; NaN keeps none."""
        return self.ratio <= self.most

    def __str__(self) -> str:
        verdict = "accepted" if self.held else "NOT ACCEPTED"
        return f"{self.what}: {self.ratio:.3f} (<= {self.most:g}): {verdict}"


def verdict(bars: list[Bar]) -> int:
    """Prints them; the exit status."""
    for bar in bars:
        print(bar)
    return int(not all(bar.held for bar in bars))
