"""Elimination tournaments: who loses once, or twice, is out. Played by `tournament`."""

from collections.abc import Sequence

from verl_ext.reward_fns.comparisons import Comparisons, filled, win
from verl_ext.reward_fns.pairing import paired
from verl_ext.reward_fns.places import by_place


async def single_bracket(comparisons: Comparisons, anchor: int) -> list[float]:
    """Rewards of a seeded single elimination; see :func:`tournament.single_elimination`."""
    seeds = filled(await comparisons.with_anchor(anchor))
    order = sorted(comparisons.players, key=lambda p: (-seeds[p], comparisons.lots[p]))
    bracket = [order[seed] if seed < len(order) else None for seed in bracket_order(len(order))]
    out: dict[int, int] = {}
    round_ = 0
    while len(bracket) > 1:
        round_ += 1
        matches = list(zip(bracket[::2], bracket[1::2], strict=True))
        await comparisons.ask((a, b) for a, b in matches if a is not None and b is not None)
        bracket = []
        for a, b in matches:
            if a is None or b is None:  # a bye
                bracket.append(b if a is None else a)
                continue
            winner, loser = decided(comparisons, a, b, seeds)
            bracket.append(winner)
            out[loser] = round_
    means = comparisons.mean_points()
    last = round_ + 1
    return by_place([(out.get(p, last), means[p]) for p in comparisons.players])


async def double_bracket(comparisons: Comparisons) -> list[float]:
    """Rewards of a double elimination; see :func:`tournament.double_elimination`."""
    unbeaten, beaten_once = list(comparisons.players), list[int]()
    byes = [0] * len(unbeaten)
    out: dict[int, int] = {}
    round_ = 0
    while len(unbeaten) > 1 or len(beaten_once) > 1:
        round_ += 1
        upper, lower = (_round(comparisons, side, byes) for side in (unbeaten, beaten_once))
        await comparisons.ask(upper + lower)
        means = comparisons.mean_points()
        losers = [decided(comparisons, a, b, means)[1] for a, b in upper]
        for a, b in lower:
            loser = decided(comparisons, a, b, means)[1]
            beaten_once.remove(loser)
            out[loser] = round_
        beaten_once += losers
        unbeaten = [player for player in unbeaten if player not in losers]
    final = (unbeaten[0], beaten_once[0])
    await comparisons.ask([final])
    means = comparisons.mean_points()
    champion, second = decided(comparisons, *final, means)
    out |= {second: round_ + 1, champion: round_ + 2}
    return by_place([(out[p], means[p]) for p in comparisons.players])


def decided(comparisons: Comparisons, a: int, b: int, strength: Sequence[float]) -> tuple[int, int]:
    """Winner and loser; a tied or void match goes to the greater strength, then by lot."""
    won = win(comparisons.scores(a, b))
    ahead = (won, strength[a], -comparisons.lots[a])
    behind = (1 - won, strength[b], -comparisons.lots[b])
    return (a, b) if ahead > behind else (b, a)


def bracket_order(n: int) -> list[int]:
    """Seeds from 0 in the order of the bracket, padded to a power of two.

    The best two meet in the last round if they win, the best four in the last but one, and so on;
    seeds of n and more are byes, and fall to the best.
    """
    order = [0]
    while len(order) < n:
        order = [seed for one in order for seed in (one, 2 * len(order) - 1 - one)]
    return order


def _round(comparisons: Comparisons, side: Sequence[int], byes: list[int]) -> list[tuple[int, int]]:
    """Pairs one side of the bracket, strong against weak; counts the bye of an odd one."""
    means = comparisons.mean_points()
    order = sorted(side, key=lambda p: (-means[p], comparisons.lots[p]))
    if len(order) % 2:
        resting = min(order, key=lambda p: byes[p])  # the first, so the best, of those
        byes[resting] += 1
        order.remove(resting)
    return paired(order, comparisons.met, lambda first, rest: rest[::-1])
