"""Tournaments: a judge compares the responses to a prompt in pairs, and their ranks are the reward.

For tasks without a verifier. A judge that scores each response by itself gives good ones nearly
equal scores; asked which of two is better, it still tells them apart.

Source: "ArenaRL: Scaling RL for Open-Ended Agents via Tournament-based Relative Ranking", 2026,
https://arxiv.org/abs/2601.06487, and https://github.com/Alibaba-NLP/qqr.

What all five have in common: players are numbered from 0. ``await compare(i, j)`` gives the scores
of i and of j, or None where the judge failed: such a comparison is void. It is asked at most once
about a pair, in either order, and about all pairs of a round at once. The same ``seed`` and answers
give the same result, whatever the order in which answers arrive. Ties are broken by points and then
by a seeded draw, never by a player's number.

    share of void comparisons > max_void      rewards None: the group is void
    no comparison told two players apart      rewards 0 for all
    a player without any judged comparison    the mean of the others, so that its advantage is 0

A group is given up between two rounds once it is bound to be void. An exception of ``compare``
passes through, after the comparisons under way have been cancelled and have ended. ValueError where
there are fewer than two players, ``max_void`` is not in [0, 1], the anchor is no player or a score
is NaN or infinite.

How much to allow: at 0, a bracket is biased against a player whose own comparisons fail, since the
better it does the more it has of them; much above 0.1, groups that live are ranked less well. At
0.1, in 2,000 groups of 8 and with up to a fifth of the comparisons void, both stay within three
standard errors (of the first some −0.03 of advantage are left).

Deviations: the authors' judge gives both players 5 where it fails, which makes rewards of full
strength from the players' numbers or from chance. Their Swiss system gives scores to the wrong
players, their bracket hands byes to whoever is left over, and a tie goes to the player who is named
first. What differs in each is said there.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Protocol

from verl_ext.reward_fns.brackets import double_bracket, single_bracket
from verl_ext.reward_fns.comparisons import (
    Compare,
    Comparisons,
    TooManyVoid,
    TournamentResult,
    win,
)
from verl_ext.reward_fns.places import by_rank
from verl_ext.reward_fns.swiss_system import swiss_rounds, swiss_system

__all__ = [
    "TOPOLOGIES",
    "Compare",
    "Topology",
    "TournamentResult",
    "anchor",
    "double_elimination",
    "round_robin",
    "single_elimination",
    "swiss",
]


class Topology(Protocol):
    """Who is compared with whom."""

    __name__: str

    async def __call__(
        self, n: int, compare: Compare, *, seed: int = 0, max_void: float = 0.0
    ) -> TournamentResult:
        """Plays a tournament of ``n`` players."""


async def anchor(
    n: int, compare: Compare, *, seed: int = 0, max_void: float = 0.0, anchor: int = 0
) -> TournamentResult:
    """Compares each player with the anchor alone: n − 1 comparisons in one round.

    A player's score is its points, the anchor's the mean of its own. r = (m − rank)/(m − 1), where
    equal scores share the best of their ranks and m is the lowest rank.

    Args:
        n: players, at least 2.
        compare: see the module.
        seed: of the order in which two players are named.
        max_void: share of void comparisons above which the group is void.
        anchor: number of the anchor.

    Deviations: 0 for all where each comparison is a tie, though at different scores; the authors
    rank the scores. A player whose comparison is void gets the mean of the others.
    """
    comparisons = Comparisons(n, compare, seed=seed, max_void=max_void, at_most=n - 1)
    return await _played(partial(_anchor, anchor=anchor), comparisons)


async def round_robin(
    n: int, compare: Compare, *, seed: int = 0, max_void: float = 0.0
) -> TournamentResult:
    """Compares everybody with everybody: n(n − 1)/2 comparisons in one round.

    A player's score is its share of wins among its judged comparisons, a tie being half of one;
    r as in :func:`anchor`.

    Args:
        n: players, at least 2.
        compare: see the module.
        seed: of the order in which two players are named.
        max_void: share of void comparisons above which the group is void.

    Deviations: none without void comparisons.
    """
    comparisons = Comparisons(n, compare, seed=seed, max_void=max_void, at_most=n * (n - 1) // 2)
    return await _played(_round_robin, comparisons)


async def single_elimination(
    n: int, compare: Compare, *, seed: int = 0, max_void: float = 0.0, anchor: int = 0
) -> TournamentResult:
    """Seeds the players by a comparison with the anchor, then plays a bracket: ≤ 2n − 2 of them.

    Seeds are ranked as in :func:`anchor`; where one's comparison is void, by the mean of the
    others. In the bracket the best two can only meet at the end, and the best seeds have the byes.
    The higher score wins; a tied or void match goes to the better seed. 1 + ⌈log₂ n⌉ rounds.

    r = 1 − place/(n − 1), places from 0: the champion, then who lost later, and among losers of one
    round who has the higher mean of all points. Equals share the mean of their places. (By seed
    score alone, with fewer points in it, ranks are worse: under a judge whose noise is half the
    spread of quality, 16 players, Spearman's correlation with the true order .874 instead of .898.)

    Args:
        n: players, at least 2.
        compare: see the module.
        seed: of the draw that breaks ties, and of the order in which two players are named.
        max_void: share of void comparisons above which the group is void.
        anchor: number of the anchor. It meets everybody, and what it was given then also counts in
            the bracket: where no response is an anchor by itself, let chance choose it.

    Deviations: the authors' byes are those of the standard bracket only where n is a power of two,
    a tie goes to the player named first, equals are ranked by position, and a match against the
    anchor is judged, and its points counted, once more than here.
    """
    comparisons = Comparisons(n, compare, seed=seed, max_void=max_void, at_most=2 * n - 2)
    return await _played(partial(single_bracket, anchor=anchor), comparisons)


async def double_elimination(
    n: int, compare: Compare, *, seed: int = 0, max_void: float = 0.0
) -> TournamentResult:
    """Who loses twice is out: at most 2n − 2 comparisons.

    Each round the unbeaten play each other, and so do those beaten once; last the two who are left.
    A pair is judged once, so that the final is one match, and a repeated match has the result it
    had. The first pairing is drawn; then the player with most points meets the one with fewest,
    with as few repeated matches as possible. A bye goes to who had fewest, then to the most points.
    A tied or void match goes to the higher mean of all points.

    r as in :func:`single_elimination`: the champion, the other finalist, then who was out later,
    then who has more points.

    Args:
        n: players, at least 2.
        compare: see the module.
        seed: of the first pairing, of the draw that breaks ties, and of who is named first.
        max_void: share of void comparisons above which the group is void.

    Deviations: the authors pair by chance in every round, and a tie goes to the player named first.
    """
    comparisons = Comparisons(n, compare, seed=seed, max_void=max_void, at_most=2 * n - 2)
    return await _played(double_bracket, comparisons)


async def swiss(
    n: int, compare: Compare, *, seed: int = 0, max_void: float = 0.0
) -> TournamentResult:
    """min(⌈log₂ n⌉, n − 1) rounds between players of equal points, nobody meeting twice.

    Of equals by points, the one with the highest mean score meets the one with the lowest. A win is
    1, a tied or void match 1/2. Where n is odd the lowest who had no bye has one, worth 1.
    r as in :func:`single_elimination`, by points and then by Buchholz, the sum of the opponents'
    points; equals share the mean of their places.

    Args:
        n: players, at least 2.
        compare: see the module.
        seed: of the first pairing and of the draw that breaks ties in later ones.
        max_void: share of void comparisons above which the group is void.

    Deviations: nobody meets twice; the authors' pairing lets that happen where it gets stuck.
    """
    at_most = swiss_rounds(n) * (n // 2)
    comparisons = Comparisons(n, compare, seed=seed, max_void=max_void, at_most=at_most)
    return await _played(swiss_system, comparisons)


TOPOLOGIES: dict[str, Topology] = {
    "anchor": anchor,
    "round_robin": round_robin,
    "single_elimination": single_elimination,
    "double_elimination": double_elimination,
    "swiss": swiss,
}


async def _played(
    play: Callable[[Comparisons], Awaitable[Sequence[float | None]]], comparisons: Comparisons
) -> TournamentResult:
    try:
        return comparisons.result(await play(comparisons))
    except TooManyVoid:
        return comparisons.result(None)


async def _anchor(comparisons: Comparisons, anchor: int) -> list[float | None]:
    return by_rank(await comparisons.with_anchor(anchor))


async def _round_robin(comparisons: Comparisons) -> list[float | None]:
    await comparisons.ask(combinations(comparisons.players, 2))
    rates: list[float | None] = []
    for player in comparisons.players:
        others = (comparisons.scores(player, other) for other in comparisons.players)
        wins = [win(scores) for scores in others if scores]
        rates.append(sum(wins) / len(wins) if wins else None)
    return by_rank(rates)
