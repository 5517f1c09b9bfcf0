"""From keys to rewards in [0, 1]: the greatest key gets 1."""

from collections.abc import Sequence
from statistics import fmean
from typing import TypeAlias

Key: TypeAlias = tuple[float, float]


def by_place(keys: Sequence[Key]) -> list[float]:
    """1 − place/(n − 1), places from 0 in descending order of the keys.

    Equal keys share the mean of their places: nothing tells one from the other.
    """
    descending = sorted(keys, reverse=True)
    places = {key: fmean(i for i, other in enumerate(descending) if other == key) for key in keys}
    return [1 - places[key] / (len(keys) - 1) for key in keys]


def by_rank(scores: Sequence[float | None]) -> list[float | None]:
    """(m − rank)/(m − 1), where a rank is one more than the number of greater scores, m the lowest.

    Equal scores share the best of their ranks, and the lowest of all get 0. None for who has no
    score; 0 for all others where no two scores differ.
    """
    known = [score for score in scores if score is not None]
    ranks = [1 + sum(other > score for other in known) for score in known]
    lowest = max(ranks, default=1)
    rewards = iter((lowest - rank) / max(lowest - 1, 1) for rank in ranks)
    return [None if score is None else next(rewards) for score in scores]
