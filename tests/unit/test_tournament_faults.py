"""A judge that fails takes no sides: over 2,000 groups, no player and no rank gains or loses by it.

Every set of qualities is dealt once to each player, so that no player is good by chance.
"""

import random
from functools import cache

import pytest
import torch

from verl_ext.advantage_fns.rank import rank
from verl_ext.reward_fns import comparisons
from verl_ext.reward_fns.tournament import TOPOLOGIES, anchor, single_elimination

GROUPS, PLAYERS, NOISE = 2000, 8, 0.5
MAX_VOID = 0.1
FAULTS = [(None, 0.05), (None, 0.1), (None, 0.2), (0, 0.1), (0, 0.2), (3, 0.2)]


async def one_after_another(jobs):
    return [await job for job in jobs]


@pytest.fixture(autouse=True)
def _without_an_event_loop(monkeypatch):
    """Thousands of tournaments whose judge never waits."""
    monkeypatch.setattr(comparisons, "_together", one_after_another)


def finished(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the judge waited")


def judge(quality, draw, victim, probability):
    """Qualities with noise; None with a probability, where the victim plays or always."""

    async def compare(i, j):
        scores = quality[i] + draw.gauss(0, NOISE), quality[j] + draw.gauss(0, NOISE)
        concerned = victim is None or victim in (i, j)
        return None if draw.random() < probability and concerned else scores

    return compare


def order_of(values):
    return sorted(range(len(values)), key=values.__getitem__, reverse=True)


@cache
def advantages(name, victim, probability, max_void):
    """(groups, players), the same by rank of quality, and which groups are not void."""
    topology, results, best_first = TOPOLOGIES[name], [], []
    for group in range(GROUPS):
        deal, turn = divmod(group, PLAYERS)
        draw = random.Random(f"qualities {deal}")
        quality = [draw.gauss(0, 1) for _ in range(PLAYERS)]
        quality = quality[turn:] + quality[:turn]
        best_first.append(order_of(quality))
        draw = random.Random(f"{group} {victim} {probability}")
        settings = {"anchor": draw.randrange(PLAYERS)} if chooses_an_anchor(topology) else {}
        compare = judge(quality, draw, victim, probability)
        results.append(
            finished(topology(PLAYERS, compare, seed=group, max_void=max_void, **settings))
        )
    rewards = torch.tensor([result.rewards or [0.0] * PLAYERS for result in results])
    groups = torch.arange(GROUPS).repeat_interleave(PLAYERS)
    spread, _ = rank(rewards.double().flatten(), torch.ones(GROUPS * PLAYERS, 1), groups)
    by_player = spread.view(GROUPS, PLAYERS)
    alive = torch.tensor([result.rewards is not None for result in results])
    for result, lives in zip(results, alive.tolist(), strict=True):
        assert lives == (result.void / result.comparisons <= max_void)  # none is lost silently
    return by_player, by_player.gather(1, torch.tensor(best_first)), alive


def chooses_an_anchor(topology):
    return topology in (anchor, single_elimination)


def mean_and_error(rows):
    return rows.mean(0), rows.std(0) / len(rows) ** 0.5


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize(("victim", "probability"), FAULTS)
def test_no_player_gains_or_loses_by_a_judge_that_fails(name, victim, probability):
    by_player, _, _ = advantages(name, victim, probability, MAX_VOID)
    mean, error = mean_and_error(by_player)
    assert (mean.abs() <= 3 * error).all(), mean / error


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize(("victim", "probability"), FAULTS)
def test_groups_that_are_not_void_rank_as_well_as_without_faults(name, victim, probability):
    _, by_rank, alive = advantages(name, victim, probability, MAX_VOID)
    _, without, _ = advantages(name, None, 0.0, MAX_VOID)
    mean, error = mean_and_error(by_rank[alive])
    expected, its_error = mean_and_error(without)
    assert ((mean - expected).abs() <= 3 * (error**2 + its_error**2).sqrt()).all()


def test_where_no_void_comparison_is_allowed_the_survivors_are_biased():
    # The better a player does in a bracket, the more comparisons it has: if only its own fail, the
    # groups in which it does well are void more often.
    by_player, _, _ = advantages("single_elimination", 3, 0.2, 0.0)
    mean, error = mean_and_error(by_player)
    assert mean[3] < -3 * error[3]


def test_where_many_void_comparisons_are_allowed_ranks_are_blurred():
    _, by_rank, alive = advantages("single_elimination", None, 0.2, 0.5)
    _, without, _ = advantages("single_elimination", None, 0.0, MAX_VOID)
    assert alive.double().mean() > 0.95
    assert by_rank[alive][:, 0].mean() < without[:, 0].mean() - 0.04


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_dead_judge_gives_no_advantage_at_all(name):
    by_player, _, alive = advantages(name, None, 1.0, MAX_VOID)
    assert not by_player.any()
    assert not alive.any()
