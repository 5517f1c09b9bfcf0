"""A prompt's responses before the judge: from pairs, or each alone, to one reward a response."""

import asyncio
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any, Protocol

from verl_ext.adapters.tournament.settings import Tournament
from verl_ext.reward_fns.judge import bidirectional
from verl_ext.reward_fns.tournament import TOPOLOGIES


class JudgeLike(Protocol):
    """What a group asks, ``adapters.judge.client.Judge``: verdicts with ``scores`` or a failure."""

    async def pair(self, question: Any, first: Any, second: Any) -> Any:
        """Of two responses, in the order in which they are shown."""

    async def single(self, question: Any, response: Any, seed: int | None = None) -> Any:
        """Of one response."""


@dataclass(frozen=True)
class GroupVerdict:
    """What became of a prompt's responses.

    Attributes:
        rewards: one a response, in [0, 1]; all 0 where the group is void.
        void: whether the judge has failed for more of the group than it may.
        points: what the judge has given each response on average; None where it gave none.
        sums: of the group's calls, for metrics that add up over groups.
    """

    rewards: tuple[float, ...]
    void: bool = False
    points: tuple[float | None, ...] = ()
    sums: Mapping[str, float] = field(default_factory=dict)


async def judged(
    wanted: Tournament, judge: JudgeLike, question: Any, responses: Sequence[Hashable], seed: int
) -> GroupVerdict:
    """Asks for as many judgements as the topology needs, and makes rewards of them.

    Responses that look alike to the judge are one player and share its reward: they are not
    compared with each other, and no draw parts them. Where all are alike nobody is asked.

    Args:
        wanted: topology, and how much may be void.
        judge: asked concurrently.
        question: for it.
        responses: for it; the first is the anchor.
        seed: of draws.
    """
    players = list(dict.fromkeys(responses))
    place = [players.index(response) for response in responses]
    if len(players) == 1:
        return GroupVerdict((0.0,) * len(responses), points=(None,) * len(responses))
    book = _Book(judge, question, players)
    if wanted.pointwise:
        rewards = await book.alone(wanted.calls or 1, wanted.max_void)
    else:
        result = await TOPOLOGIES[wanted.topology](
            len(players), book.compare, seed=seed, max_void=wanted.max_void
        )
        rewards = result.rewards
        book.sums["comparisons"], book.sums["void"] = result.comparisons, result.void
    points = book.points()
    given = [value for value in points if value is not None]
    if len(given) > 1:
        book.sums["spread"], book.sums["spread_groups"] = pstdev(given), 1
    return GroupVerdict(
        tuple(rewards[n] if rewards is not None else 0.0 for n in place),
        rewards is None,
        tuple(points[n] for n in place),
        dict(book.sums),
    )


class _Book:
    """What the judge has said in a group, put down as it comes."""

    def __init__(self, judge: JudgeLike, question: Any, players: Sequence[Any]) -> None:
        self._judge, self._question, self._players = judge, question, players
        self._points: list[list[float]] = [[] for _ in players]
        self.sums: Counter[str] = Counter()

    def points(self) -> list[float | None]:
        """The mean of each player's."""
        # In an order of their own: which answer came first must not show in the last bit.
        return [fmean(sorted(own)) if own else None for own in self._points]

    def _put_down(self, verdict: Any, *players: int) -> tuple[float, ...] | None:
        self.sums["calls"] += 1
        self.sums["seconds"] += verdict.seconds
        self.sums["tokens"] += verdict.tokens
        self.sums["cached"] += verdict.cached
        if verdict.scores is None:
            self.sums[f"failed/{verdict.failure.value}"] += 1
            return None
        for player, score in zip(players, verdict.scores, strict=True):
            self._points[player].append(score)
        return tuple(verdict.scores)

    async def compare(self, i: int, j: int) -> tuple[float, float] | None:
        """Both orders of a pair, summed; and how far the two orders disagree."""
        margins: dict[int, float] = {}

        async def shown(first: int, second: int) -> tuple[float, float] | None:
            players = self._players[first], self._players[second]
            verdict = await self._judge.pair(self._question, *players)
            scores = self._put_down(verdict, first, second)
            if scores is None:
                return None
            margins[first] = scores[0] - scores[1]
            return scores[0], scores[1]

        total = await bidirectional(shown, i, j)
        if total is not None:
            # Margin of the one shown first: what the order alone decides is the mean of the two.
            order = (margins[i] + margins[j]) / 2
            self.sums["pairs"] += 1
            self.sums["order"] += order
            self.sums["order_squared"] += order * order
        return total

    async def alone(self, calls: int, max_void: float) -> list[float] | None:
        """Each player's mean share of the best score; None if too many calls have failed."""
        jobs = [(n, seed) for n in range(len(self._players)) for seed in range(calls)]

        async def one(player: int, seed: int) -> None:
            verdict = await self._judge.single(self._question, self._players[player], seed)
            self._put_down(verdict, player)

        await asyncio.gather(*(one(*job) for job in jobs))
        void = len(jobs) - sum(map(len, self._points))
        self.sums["comparisons"], self.sums["void"] = len(jobs), void
        if void > max_void * len(jobs) or not all(self._points):
            return None
        for own in self._points:
            if len(own) > 1:
                self.sums["alone"] += 1
                self.sums["alone_variance"] += pstdev(own) ** 2 / (len(own) - 1)
        return [fmean(sorted(own)) / self._judge.max_score for own in self._points]  # type: ignore[attr-defined]


def noise(sums: Mapping[str, float]) -> float:
    """The standard deviation of a response's mean points that the judge's noise makes; NaN unknown.

    Of pairs from how far their two orders disagree beyond the usual preference for the first; of
    responses judged alone from how far repeated calls do.

    Args:
        sums: of groups, added up.
    """
    if sums.get("alone"):
        return math.sqrt(sums["alone_variance"] / sums["alone"])
    pairs = sums.get("pairs", 0)
    if pairs < 2:
        return math.nan
    mean = sums["order"] / pairs
    return math.sqrt(max(sums["order_squared"] / pairs - mean * mean, 0.0) / 2)
