"""The Swiss system: a few rounds between equals, nobody meeting twice. Played by `tournament`."""

from collections.abc import Sequence

from verl_ext.reward_fns.comparisons import Comparisons, win
from verl_ext.reward_fns.pairing import Met, Pairs, paired
from verl_ext.reward_fns.places import by_place


def swiss_rounds(n: int) -> int:
    """min(⌈log₂ n⌉, n − 1): so many leave one unbeaten, and nobody need meet twice."""
    return min((n - 1).bit_length(), n - 1)


async def swiss_system(comparisons: Comparisons) -> list[float]:
    """Rewards of a Swiss tournament; see :func:`tournament.swiss`."""
    players, met = comparisons.players, comparisons.met
    points = [0.0 for _ in players]
    opponents: list[list[int]] = [[] for _ in players]
    rested: set[int] = set()
    for _ in range(swiss_rounds(len(players))):
        means = comparisons.mean_points()
        order = sorted(players, key=lambda p: (-points[p], -means[p], comparisons.lots[p]))
        pairs, byes = swiss_pairs(order, points, met, rested)
        for resting in byes:
            points[resting] += 1
            rested.add(resting)
        await comparisons.ask(pairs)
        for a, b in pairs:
            won = win(comparisons.scores(a, b))
            points[a] += won
            points[b] += 1 - won
            opponents[a].append(b)
            opponents[b].append(a)
    buchholz = [sum(points[other] for other in opponents[p]) for p in players]
    return by_place([(points[p], buchholz[p]) for p in players])


def swiss_pairs(
    order: Sequence[int], points: Sequence[float], met: Met, rested: set[int]
) -> tuple[Pairs, list[int]]:
    """The pairs of a round, none a rematch, and who has a bye: one player or none.

    Among equal points the first meets the last; an odd one goes down to the next. The bye is one
    more opponent, met once, who chooses first and wants the last. With it there is a pairing in
    every round: everybody has at least half of the others left to meet (Dirac's theorem).

    Args:
        order: the players from first to last, by points above all.
        points: of each player.
        met: whether two have met.
        rested: who had a bye.
    """
    bye = len(order)

    def met_or_rested(first: int, other: int) -> bool:
        return other in rested if first == bye else met(first, other)

    def preference(first: int, rest: Sequence[int]) -> Sequence[int]:
        if first == bye:
            return rest[::-1]
        equals = [player for player in rest if points[player] == points[first]]
        return equals[::-1] + [player for player in rest if player not in equals]

    players = [bye, *order] if len(order) % 2 else order
    pairs = paired(players, met_or_rested, preference)
    return [pair for pair in pairs if bye not in pair], [b for a, b in pairs if a == bye]
