"""A pair of responses judged in both orders, so that what a place is worth cancels.

A judge that favours the response it reads first favours each of the two once. Judged in one order
only, a pair would be decided by that favour, so a pair lacking an order is void: no score stands in
for a judge that failed.

Source: Zhang et al., "ArenaRL: Scaling RL for Open-Ended Agents via Tournament-based Relative
Ranking", 2026, https://arxiv.org/abs/2601.06487.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

Player = TypeVar("Player")
Scores = tuple[float, float]  # of the response shown first, of the one shown second


@dataclass(frozen=True)
class BothOrders:
    """What a judge said of a pair (i, j).

    Attributes:
        forward: scores with i shown first; None where the judge failed.
        backward: scores with j shown first; None where the judge failed.
    """

    forward: Scores | None
    backward: Scores | None

    @property
    def totals(self) -> Scores | None:
        """Scores of i and of j, summed over both orders; None where either order is void."""
        if self.forward is None or self.backward is None:
            return None
        return self.forward[0] + self.backward[1], self.forward[1] + self.backward[0]

    @property
    def favour(self) -> float | None:
        """How much more a response got for being shown first, in points of one judgement.

        The mean of (first shown − second shown) over both orders: the qualities cancel. None where
        either order is void, since there they do not.
        """
        if self.forward is None or self.backward is None:
            return None
        return (self.forward[0] - self.forward[1] + self.backward[0] - self.backward[1]) / 2


async def both_orders(
    judge: Callable[[Player, Player], Awaitable[Scores | None]], i: Player, j: Player
) -> BothOrders:
    """Asks for (i, j) and for (j, i) at the same time.

    Args:
        judge: ``async (first, second) -> (score_first, score_second)``, or None where it failed.
        i: a response, or whatever the judge knows it by.
        j: the other.

    Raises:
        ValueError: a score is not a finite number.

    What the judge raises is passed on, after the other order was cancelled.
    """
    orders = [asyncio.ensure_future(judge(i, j)), asyncio.ensure_future(judge(j, i))]
    try:
        forward, backward = await asyncio.gather(*orders)
    finally:
        for order in orders:
            order.cancel()  # nothing where it is done
    for scores in (forward, backward):
        if scores is not None and not all(map(math.isfinite, scores)):
            raise ValueError(f"a judge's scores must be finite, got {scores}")
    return BothOrders(forward, backward)


async def bidirectional(
    judge: Callable[[Player, Player], Awaitable[Scores | None]], i: Player, j: Player
) -> Scores | None:
    """The scores of i and of j, summed over both orders.

    Args:
        judge: ``async (first, second) -> (score_first, score_second)``, or None where it failed.
        i: a response, or whatever the judge knows it by.
        j: the other.

    Returns:
        ``(score_i, score_j)``; None where either order is void.

    Raises:
        ValueError: a score is not a finite number.

    Deviations: the authors' code gives both responses 5 points in an order that failed, which mixes
    a constant into the scores of the other order, or draws the pair.
    """
    return (await both_orders(judge, i, j)).totals
