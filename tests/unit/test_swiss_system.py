"""The Swiss system, retold from the matches that were asked for."""

import asyncio
import random

import pytest

from verl_ext.reward_fns.places import by_place
from verl_ext.reward_fns.swiss_system import swiss_pairs, swiss_rounds
from verl_ext.reward_fns.tournament import swiss


def test_equals_meet_first_against_last_and_then_the_next_from_the_end():
    def pairs(*met):
        return swiss_pairs([0, 1, 2, 3], [0.0] * 4, lambda a, b: (a, b) in met, set())[0]

    assert pairs() == [(0, 3), (1, 2)]
    assert pairs((0, 3)) == [(0, 2), (1, 3)]
    assert pairs((0, 3), (0, 2)) == [(0, 1), (2, 3)]


def test_a_bye_goes_to_the_last_who_had_none():
    def resting(*rested):
        return swiss_pairs([0, 1, 2, 3, 4], [0.0] * 5, lambda a, b: False, set(rested))[1]

    assert resting() == [4]
    assert resting(4) == [3]
    assert resting(3, 4) == [2]


@pytest.mark.parametrize("seed", range(6))
def test_of_two_losers_the_one_with_the_lower_scores_has_the_bye(seed):
    asked = []

    async def compare(i, j):
        asked.append((i, j))
        return (i, j)

    asyncio.run(swiss(5, compare, seed=seed))
    losers = [min(pair) for pair in asked[:2]]
    (resting,) = set(range(5)) - {player for pair in asked[2:4] for player in pair}
    assert resting == min(losers)


def test_rounds_leave_one_unbeaten():
    assert [swiss_rounds(n) for n in (2, 3, 4, 5, 8, 9)] == [1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("n", [5, 7])
@pytest.mark.parametrize("seed", range(12))
def test_a_bye_is_a_win_whatever_its_player_has_won_before(n, seed):
    draw = random.Random(f"{n} {seed}")
    better = {frozenset((a, b)): draw.choice((a, b)) for a in range(n) for b in range(a)}
    asked = []

    async def compare(i, j):
        asked.append((i, j))
        return (1, 0) if better[frozenset((i, j))] == i else (0, 1)

    rewards = asyncio.run(swiss(n, compare, seed=seed)).rewards
    points, opponents = [0] * n, [[] for _ in range(n)]
    size = n // 2
    for start in range(0, len(asked), size):
        playing = asked[start : start + size]
        for pair in playing:
            points[better[frozenset(pair)]] += 1
            for player, other in (pair, pair[::-1]):
                opponents[player].append(other)
        (resting,) = set(range(n)) - {player for pair in playing for player in pair}
        points[resting] += 1
    strength = [sum(points[other] for other in opponents[p]) for p in range(n)]
    assert rewards == by_place([(points[p], strength[p]) for p in range(n)])
