"""Pairs players for a round so that as few as possible meet again."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

Met: TypeAlias = Callable[[int, int], bool]
Preference: TypeAlias = Callable[[int, Sequence[int]], Sequence[int]]
Pairs: TypeAlias = list[tuple[int, int]]


def paired(players: Sequence[int], met: Met, preference: Preference) -> Pairs:
    """Pairs an even number of players with the fewest rematches.

    Args:
        players: who is paired; the first chooses first.
        met: whether two have met.
        preference: of a player among those who are left, the most wanted first.

    Raises:
        ValueError: the players are odd in number.
    """
    for rematches in range(len(players) // 2 + 1):
        pairs = _paired(players, met, preference, rematches)
        if pairs is not None:
            return pairs
    raise ValueError(f"only an even number can be paired, got {len(players)} players")


def _paired(
    players: Sequence[int], met: Met, preference: Preference, rematches: int
) -> Pairs | None:
    """The first pairing in the order of preference with at most so many rematches, if any.

    A choice is taken back where it leaves the last ones to each other who have met.
    """
    if not players:
        return []
    first, rest = players[0], players[1:]
    for other in preference(first, rest):
        left = rematches - met(first, other)
        if left >= 0:
            others = [player for player in rest if player != other]
            pairs = _paired(others, met, preference, left)
            if pairs is not None:
                return [(first, other), *pairs]
    return None
