"""Comparisons that come to nothing: void ones, failures, cancellation, what is refused."""

import asyncio
import inspect
import math
import random

import pytest
from unit.tournament_cases import ALL, answering, noting, played, qualities, scoring, void

from verl_ext.reward_fns.tournament import (
    TournamentResult,
    anchor,
    double_elimination,
    round_robin,
    single_elimination,
    swiss,
)


@ALL
def test_a_dead_judge_makes_the_group_void_and_is_not_asked_in_vain(topology):
    asked = []
    result = played(topology, 8, noting(void, asked))
    assert result.rewards is None
    assert result.void == result.comparisons == len(asked)
    first_round = {anchor: 7, round_robin: 28, single_elimination: 7}.get(topology, 4)
    assert result.comparisons == first_round


@ALL
def test_a_dead_judge_that_is_tolerated_gives_0_to_all(topology):
    result = played(topology, 6, void, max_void=1.0)
    assert result.rewards == [0.0] * 6
    assert result.void == result.comparisons > 0


@ALL
def test_one_void_comparison_voids_the_group_unless_a_share_is_allowed(topology):
    n, quality = 6, [5, 4, 3, 2, 1, 0]

    async def compare(i, j):
        return None if {i, j} == first else (quality[i], quality[j])

    asked = []
    played(topology, n, noting(scoring(quality), asked), seed=1)
    first = set(asked[0])
    assert played(topology, n, compare, seed=1).rewards is None
    result = played(topology, n, compare, seed=1, max_void=0.5)
    assert result.void == 1
    assert result.rewards is not None
    assert all(0 <= reward <= 1 for reward in result.rewards)


def test_a_share_equal_to_the_allowed_one_is_allowed():
    answers = {(1, 0): (1, 2), (2, 0): (0, 2), (3, 0): (0, 2), (4, 0): None}
    for compare in (answering(answers),):
        assert played(anchor, 5, compare, max_void=0.25).rewards is not None
        assert played(anchor, 5, compare, max_void=0.2499).rewards is None


def test_the_share_is_of_the_comparisons_made_not_of_the_most_there_can_be():
    # Three players, 3 comparisons of at most 4, one void: 1/3 > .3 > 1/4.
    answers = {(1, 0): (5, 4), (2, 0): None, (1, 2): (6, 5)}
    result = played(single_elimination, 3, answering(answers), max_void=0.3)
    assert result == TournamentResult(None, 3, 1)
    assert played(single_elimination, 3, answering(answers), max_void=0.34).rewards is not None


@ALL
def test_a_player_about_whom_nothing_is_known_gets_the_mean_of_the_others(topology):
    for n in (4, 5, 8):
        for seed in range(5):
            quality = qualities(n, seed)

            async def compare(i, j, q=quality):
                return None if 1 in (i, j) else (q[i], q[j])

            rewards = played(topology, n, compare, seed=seed, max_void=0.9).rewards
            others = [reward for player, reward in enumerate(rewards) if player != 1]
            assert rewards[1] == pytest.approx(sum(others) / len(others), abs=1e-12)
            assert max(others) == 1 or topology is not anchor


def test_a_void_comparison_counts_in_no_rate_of_wins():
    # 0 won its only judged comparison, 1 won two of three, 2 one of two, 3 neither of two.
    judged = {(0, 1): (1, 0), (1, 2): (1, 0), (1, 3): (1, 0), (2, 3): (1, 0)}
    answers = judged | {(0, 2): None, (0, 3): None}
    result = played(round_robin, 4, answering(answers), max_void=0.5)
    assert result.rewards == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_a_void_match_goes_to_the_better_seed():
    for seed in range(10):
        answers = {(1, 0): (9, 0), (2, 0): (8, 0), (1, 2): None}
        result = played(single_elimination, 3, answering(answers), seed=seed, max_void=0.5)
        assert result.rewards == [0, 1, 0.5]


def test_a_void_seed_counts_as_the_mean_of_the_known():
    # Scores against 0: 9, void, 3, and 0 itself 4: the mean is 16/3, so 2 is the second seed.
    asked = []
    answers = {(1, 0): (9, 6), (2, 0): None, (3, 0): (3, 2)} | {
        (1, 3): (2, 1),
        (2, 0): None,
        (1, 2): (2, 1),
    }
    played(single_elimination, 4, noting(answering(answers), asked), max_void=0.5)
    assert {frozenset(pair) for pair in asked[3:]} == {frozenset({1, 3}), frozenset({1, 2})}


def test_a_void_match_of_the_swiss_system_is_a_tie():
    answers = {(0, 1): (1, 0), (2, 3): None, (0, 2): None, (0, 3): None, (1, 2): None, (1, 3): None}
    for seed in range(10):
        result = played(swiss, 4, answering(answers), seed=seed, max_void=1.0)
        if result.void < result.comparisons:
            assert result.rewards[0] > result.rewards[1]


@ALL
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(topology, bad):
    async def compare(i, j):
        return (bad, 1) if 1 in (i, j) else (1, 2)

    with pytest.raises(ValueError, match="scores must be finite"):
        played(topology, 4, compare)


@ALL
def test_an_exception_leaves_when_the_other_comparisons_have_ended(topology):
    begun, ended = [], []

    async def compare(i, j):
        begun.append((i, j))
        if len(begun) == 2:
            await asyncio.sleep(0)
            raise RuntimeError("judge")
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # ending takes a moment
            ended.append((i, j))
            raise

    async def whole():
        with pytest.raises(RuntimeError, match="judge"):
            await topology(8, compare)
        assert len(ended) == len(begun) - 1
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(whole())


@ALL
def test_a_cancelled_tournament_leaves_no_comparison_behind(topology):
    async def compare(i, j):
        await asyncio.sleep(1)

    async def whole():
        task = asyncio.ensure_future(topology(8, compare))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(whole())


@ALL
@pytest.mark.parametrize("n", [-1, 0, 1])
def test_fewer_than_two_players_are_refused(topology, n):
    with pytest.raises(ValueError, match=f"n >= 2 players, got {n}"):
        played(topology, n, void)


@ALL
@pytest.mark.parametrize("max_void", [-0.1, 1.1, math.nan])
def test_a_share_outside_0_to_1_is_refused(topology, max_void):
    with pytest.raises(ValueError, match=r"max_void must be in \[0, 1\]"):
        played(topology, 4, void, max_void=max_void)


@pytest.mark.parametrize("topology", [anchor, single_elimination])
@pytest.mark.parametrize("number", [-1, 4])
def test_an_anchor_that_is_no_player_is_refused(topology, number):
    with pytest.raises(ValueError, match=rf"anchor must be in 0..3, got {number}"):
        played(topology, 4, void, anchor=number)


def test_a_double_elimination_ends_once_its_void_share_is_too_large_for_all_it_can_come_to():
    # Eight dead matches of at most 14, after two rounds; the third is not asked for.
    assert played(double_elimination, 8, void, max_void=0.5) == TournamentResult(None, 8, 8)


def test_a_single_elimination_does_so_too():
    # Three dead matches of at most six, against the anchor; the bracket is not begun.
    assert played(single_elimination, 4, void, max_void=0.4) == TournamentResult(None, 3, 3)


def sometimes_void(seed):
    """A judge who fails on half of the pairs, on the same ones whenever asked."""

    async def compare(i, j):
        draw = random.Random(f"{seed} {min(i, j)} {max(i, j)}")
        return None if draw.random() < 0.5 else (float(i > j), float(i < j))

    return compare


@ALL
@pytest.mark.parametrize("max_void", [0.25, 0.5])
def test_a_group_that_can_still_end_within_its_share_is_not_given_up(topology, max_void):
    for n in range(2, 10):
        for seed in range(40):
            whole = played(topology, n, sometimes_void(seed), seed=seed, max_void=1.0)
            result = played(topology, n, sometimes_void(seed), seed=seed, max_void=max_void)
            too_many = whole.void > max_void * whole.comparisons
            assert (result.rewards is None) == too_many, (n, seed)


def test_a_swiss_system_of_an_odd_number_ends_as_soon():
    """Four rounds of four matches: eight void ones are more than 0.47 of the sixteen."""
    assert played(swiss, 9, void, max_void=0.47).comparisons == 8


@ALL
def test_by_default_no_void_comparison_is_allowed_and_the_seed_is_0(topology):
    settings = inspect.signature(topology).parameters
    assert (settings["seed"].default, settings["max_void"].default) == (0, 0.0)
