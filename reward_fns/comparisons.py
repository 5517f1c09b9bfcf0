"""The comparisons of one tournament: a round at once, a pair once, and a count of the void ones."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

Scores: TypeAlias = tuple[float, float]
Compare: TypeAlias = Callable[[int, int], Awaitable[Scores | None]]


@dataclass(frozen=True)
class TournamentResult:
    """What a tournament gives.

    Attributes:
        rewards: one in [0, 1] for each player; None if too many of its comparisons were void.
        comparisons: pairs that were asked for, void ones included.
        void: how many of them the judge failed on.
    """

    rewards: list[float] | None
    comparisons: int
    void: int


class TooManyVoid(Exception):
    """The group is void whatever the comparisons that are left would say."""


class Comparisons:
    """Asks a judge about pairs of players and remembers what it said.

    Args:
        n: players, numbered from 0.
        compare: ``await compare(i, j)`` gives both scores, or None where the judge failed.
        seed: of every draw; the order in which answers arrive decides nothing.
        max_void: share of void comparisons above which the group is void.
        at_most: comparisons that the tournament can come to.

    Attributes:
        players: 0, …, n − 1.
        lots: for each player its place in a draw, which breaks ties that nothing else breaks.

    Raises:
        ValueError: there are fewer than two players, or ``max_void`` is not in [0, 1].
    """

    def __init__(
        self, n: int, compare: Compare, *, seed: int, max_void: float, at_most: int
    ) -> None:
        if n < 2:
            raise ValueError(f"a tournament needs n >= 2 players, got {n}")
        if not 0 <= max_void <= 1:
            raise ValueError(f"max_void must be in [0, 1], got {max_void}")
        self.players = range(n)
        self._compare, self._max_void, self._at_most = compare, max_void, at_most
        self._draw = random.Random(seed)
        self.lots = self._draw.sample(self.players, n)
        self._answers: dict[tuple[int, int], Scores | None] = {}
        self._points: list[list[float]] = [[] for _ in self.players]

    async def ask(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Has the pairs judged that are not yet, all at once.

        Which of two is named first is drawn: a judge that prefers the first then adds noise, and
        favours no player.

        Raises:
            TooManyVoid: of the comparisons that may be made, too many are void already.
            ValueError: a score is NaN or infinite.
        """
        new = [pair for pair in dict.fromkeys(map(_ascending, pairs)) if pair not in self._answers]
        shown = [(a, b) if self._draw.random() < 0.5 else (b, a) for a, b in new]
        for (a, b), answer in zip(shown, await _together(map(self._judged, shown)), strict=True):
            self._answers[_ascending((a, b))] = answer if a < b or not answer else answer[::-1]
            for player, score in zip((a, b), answer or (), strict=False):
                self._points[player].append(score)
        if self._void / self._at_most > self._max_void:
            raise TooManyVoid

    def scores(self, a: int, b: int) -> Scores | None:
        """What the judge gave the two, in this order; None where it failed or was not asked."""
        answer = self._answers.get(_ascending((a, b)))
        return answer if a < b or not answer else answer[::-1]

    def met(self, a: int, b: int) -> bool:
        """Whether the pair was asked for."""
        return _ascending((a, b)) in self._answers

    def mean_points(self) -> list[float]:
        """Each player's mean score; one who has none gets the mean of those who have."""
        return filled([fmean(points) if points else None for points in self._points])

    async def with_anchor(self, anchor: int) -> list[float | None]:
        """Has each player judged with the anchor.

        Returns:
            The points of each and the mean of the anchor's own; None where there are none.

        Raises:
            ValueError: the anchor is no player.
        """
        if anchor not in self.players:
            raise ValueError(f"anchor must be in 0..{len(self.players) - 1}, got {anchor}")
        await self.ask((player, anchor) for player in self.players if player != anchor)
        return [fmean(points) if points else None for points in self._points]

    def result(self, rewards: Sequence[float | None] | None) -> TournamentResult:
        """The rewards, unless the group is void or no comparison told two players apart.

        Of a player about whom nothing is known the reward is the mean of the others.
        """
        asked, void = len(self._answers), self._void
        if rewards is None or void / asked > self._max_void:
            return TournamentResult(None, asked, void)
        if all(win(answer) == 0.5 for answer in self._answers.values()):
            return TournamentResult([0.0 for _ in self.players], asked, void)
        pairs = zip(rewards, self._points, strict=True)
        return TournamentResult(filled([r if points else None for r, points in pairs]), asked, void)

    @property
    def _void(self) -> int:
        return sum(answer is None for answer in self._answers.values())

    async def _judged(self, pair: tuple[int, int]) -> Scores | None:
        answer = await self._compare(*pair)
        if answer is not None and not all(map(math.isfinite, answer)):
            raise ValueError(f"scores must be finite, got {answer} for players {pair}")
        return answer


def win(scores: Scores | None) -> float:
    """1 if the first of two won, 0 if it lost, 1/2 for a tie and for a void comparison."""
    if scores is None or scores[0] == scores[1]:
        return 0.5
    return 1.0 if scores[0] > scores[1] else 0.0


def filled(values: Sequence[float | None]) -> list[float]:
    """The values, with the mean of the known ones for each that is None; 0 if none is known."""
    known = [value for value in values if value is not None]
    mean = fmean(known) if known else 0.0
    return [mean if value is None else value for value in values]


def _ascending(pair: tuple[int, int]) -> tuple[int, int]:
    return pair if pair[0] < pair[1] else pair[::-1]


async def _together(jobs: Iterable[Awaitable[Scores | None]]) -> list[Scores | None]:
    """Awaits all at once; where one raises, the others have ended when its exception leaves."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()  # of no effect on one that has ended
        await asyncio.gather(*tasks, return_exceptions=True)
