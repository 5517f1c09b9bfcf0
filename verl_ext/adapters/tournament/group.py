"""A prompt's responses before the judge: from pairs, or each alone, to one reward a response."""

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from statistics import fmean, pstdev
from typing import Any, Protocol

from verl_ext.adapters.judge.verdict import PairVerdict, SingleVerdict
from verl_ext.adapters.tournament.settings import Tournament
from verl_ext.reward_fns.judge import Scores, both_orders
from verl_ext.reward_fns.judge_prompt import JudgedResponse
from verl_ext.reward_fns.tournament import TOPOLOGIES

ANCHORED = ("anchor", "single_elimination")
Question = Sequence[Mapping[str, Any]]


class Asked(Protocol):
    """What a group asks: ``adapters.judge.client.Judge``."""

    async def pair(
        self, question: Question, first: JudgedResponse, second: JudgedResponse
    ) -> PairVerdict:
        """Of two responses, in the order in which they are shown."""

    async def single(
        self, question: Question, response: JudgedResponse, seed: int | None = None
    ) -> SingleVerdict:
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
    wanted: Tournament,
    judge: Asked,
    question: Question,
    responses: Sequence[JudgedResponse],
    seed: int,
) -> GroupVerdict:
    """Asks for as many judgements as the topology needs, and makes rewards of them.

    Responses that look alike to the judge are one player and share its reward: they are not
    compared with each other, and no draw parts them. Where all are alike nobody is asked.

    Args:
        wanted: topology, and how much may be void.
        judge: asked concurrently.
        question: chat messages that all answer.
        responses: as the judge sees them; the first is the anchor where that is greedy.
        seed: of draws, that of the anchor among them.
    """
    players = list(dict.fromkeys(responses))
    place = [players.index(response) for response in responses]
    if len(players) == 1:
        return GroupVerdict((0.0,) * len(responses), points=(None,) * len(responses))
    book = _Book(judge, question, players)
    if wanted.pointwise:
        best = wanted.judges[0].max_score
        rewards = await book.alone(wanted.calls or 1, wanted.max_void, best)
    else:
        # The anchor meets everybody, so that it must not always be the same session's; nor the one
        # that wins ties, whose lots are drawn with the seed itself.
        lot = random.Random(f"anchor {seed}")
        drawn = 0 if wanted.anchored.greedy else lot.randrange(len(players))
        anchor = {"anchor": drawn} if wanted.topology in ANCHORED else {}
        result = await TOPOLOGIES[wanted.topology](
            len(players), book.compare, seed=seed, max_void=wanted.max_void, **anchor
        )
        rewards = result.rewards
        book.add(comparisons=result.comparisons, void=result.void, **book.favours())
    points = book.points()
    given = [value for value in points if value is not None]
    if len(given) > 1:
        book.add(spread=pstdev(given), spread_groups=1)
    return GroupVerdict(
        tuple(rewards[n] if rewards is not None else 0.0 for n in place),
        rewards is None,
        tuple(points[n] for n in place),
        dict(book.sums),
    )


class _Book:
    """What the judge has said in a group, put down as it comes.

    Sums are exact (``fsum``, as in ``fmean``): what came first does not show in the last bit.
    """

    def __init__(self, judge: Asked, question: Question, players: Sequence[JudgedResponse]) -> None:
        self._judge, self._question, self._players = judge, question, players
        self._points: list[list[float]] = [[] for _ in players]
        self._favours: list[float] = []
        self.sums: dict[str, float] = {}

    def add(self, **more: float) -> None:
        """Adds to the sums."""
        for name, value in more.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def points(self) -> list[float | None]:
        """The mean of each player's."""
        return [fmean(own) if own else None for own in self._points]

    def favours(self) -> dict[str, float]:
        """How many pairs were judged, and what the order alone has decided in them."""
        squares = fsum(favour**2 for favour in self._favours)
        return {"pairs": len(self._favours), "order": fsum(self._favours), "order_squared": squares}

    async def compare(self, i: int, j: int) -> Scores | None:
        """Both orders of a pair, summed; and what the order alone has decided."""
        both = await both_orders(self._shown, i, j)
        if both.favour is not None:
            self._favours.append(both.favour)
        return both.totals

    async def alone(self, calls: int, max_void: float, best: float) -> list[float] | None:
        """Each player's mean share of the best score; None if too many calls have failed."""
        jobs = [(n, seed) for n in range(len(self._players)) for seed in range(calls)]
        await asyncio.gather(*(self._single(*job) for job in jobs))
        void = len(jobs) - sum(map(len, self._points))
        self.add(comparisons=len(jobs), void=void)
        if void > max_void * len(jobs) or not all(self._points):
            return None
        for own in self._points:
            if len(own) > 1:
                self.add(alone=1, alone_variance=pstdev(own) ** 2 / (len(own) - 1))
        return [fmean(own) / best for own in self._points]

    async def _shown(self, first: int, second: int) -> Scores | None:
        players = self._players[first], self._players[second]
        verdict = await self._judge.pair(self._question, *players)
        self._count(verdict)
        if verdict.scores is not None:
            for player, score in zip((first, second), verdict.scores, strict=True):
                self._points[player].append(score)
        return verdict.scores

    async def _single(self, player: int, seed: int) -> None:
        verdict = await self._judge.single(self._question, self._players[player], seed)
        self._count(verdict)
        if verdict.score is not None:
            self._points[player].append(verdict.score)

    def _count(self, verdict: PairVerdict | SingleVerdict) -> None:
        cost = verdict.cost
        tokens = cost.prompt_tokens + cost.completion_tokens
        self.add(
            calls=1,
            seconds=cost.latency_s,
            attempts=cost.attempts,
            tokens=tokens,
            cached=cost.cached,
        )
        if verdict.failure is not None:
            self.add(**{f"failed/{verdict.failure.value}": 1})


def noise(sums: Mapping[str, float]) -> float:
    """The standard deviation that the judge's noise makes in a response's points; NaN: unknown.

    Of pairs from how far their two orders disagree beyond the usual favour for the first, in the
    mean of two calls; of responses judged alone from how far repeated calls do, in their mean.

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
