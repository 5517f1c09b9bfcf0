"""Tournaments and the rank advantage against ArenaRL's own, retold slowly."""

import asyncio
import importlib.util
import random
from pathlib import Path

import pytest
import torch

from verl_ext.advantage_fns.rank import rank
from verl_ext.reward_fns import tournament

_spec = importlib.util.spec_from_file_location(
    "reference_arena_rl", Path(__file__).with_name("arena_rl.py")
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

TOLERANCE = {"rel": 1e-10, "abs": 1e-10}  # sums in another order, in float64
SEEDS = range(20)


def ours(name, n, points, **settings):
    async def compare(i, j):
        return reference.between(points, i, j)

    topology = tournament.TOPOLOGIES[name]
    result = asyncio.run(topology(n, compare, **settings))
    assert result.void == 0
    return result


def advantages_of(rewards):
    advantages, _ = rank(
        torch.tensor(rewards, dtype=torch.float64),
        torch.ones(len(rewards), 1),
        ["g"] * len(rewards),
    )
    return advantages.squeeze(-1).tolist()


def random_points(n, seed, ties):
    """What a judge might give: whole numbers from 0 to 20 tie, real numbers do not."""
    draw = random.Random(f"{n} {seed}")
    number = (lambda: draw.randint(0, 20)) if ties else (lambda: draw.uniform(0, 20))
    return {(i, j): (number(), number()) for i in range(n) for j in range(i + 1, n)}


def by_quality(quality):
    """The points of a judge who gives each player its quality."""
    n = len(quality)
    return {(i, j): (quality[i], quality[j]) for i in range(n) for j in range(i + 1, n)}


def shuffled(n, seed):
    values = [float(value) for value in range(n)]
    random.Random(f"{n} {seed}").shuffle(values)
    return values


def spearman(rewards, quality):
    n = len(quality)
    places = sorted(range(n), key=rewards.__getitem__)
    squares = sum((places.index(p) - sorted(quality).index(quality[p])) ** 2 for p in range(n))
    return 1 - 6 * squares / (n * (n * n - 1))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [2, 3, 5, 8])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("name", ["anchor", "round_robin"])
def test_anchor_and_round_robin_are_the_authors(name, n, seed, ties):
    points = random_points(n, seed, ties)
    expected = getattr(reference, name)(n, points)
    result = ours(name, n, points, seed=seed)
    assert result.rewards == pytest.approx(expected, **TOLERANCE)
    assert advantages_of(result.rewards) == pytest.approx(
        reference.advantages(expected), **TOLERANCE
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_single_elimination_is_the_authors_where_nobody_has_a_bye(n, seed):
    points = random_points(n, seed, ties=False)
    expected = reference.single_elimination(n, points, again=False)
    assert ours("single_elimination", n, points).rewards == pytest.approx(expected, **TOLERANCE)


def test_the_methods_example_of_an_anchor():
    points = {(1, 0): (14, 8), (2, 0): (9, 12), (3, 0): (14, 10)}
    result = ours("anchor", 4, points)
    assert result.rewards == [1 / 3, 1, 0, 1]
    expected = [-0.499999, 0.833332, -1.166664, 0.833332]
    assert advantages_of(result.rewards) == pytest.approx(expected, abs=1e-6)  # as printed there
    pair = advantages_of(ours("anchor", 2, {(1, 0): (12, 8)}).rewards)
    assert pair == pytest.approx([-0.707106, 0.707106], abs=1e-6)
    level = ours("anchor", 4, by_quality([10.0] * 4))
    assert advantages_of(level.rewards) == [0.0] * 4


def test_the_methods_example_of_a_single_elimination():
    rewards = ours("single_elimination", 4, by_quality([10, 13, 7, 12])).rewards
    expected = [-0.387297, 1.161892, -1.161892, 0.387297]
    assert advantages_of(rewards) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "first"),
    [
        (2, [0.707106]),
        (4, [1.161892, 0.387297]),
        (8, [1.428865, 1.020618, 0.612371, 0.204124]),
        (16, [1.57531, 1.365269, 1.155227]),
    ],
)
def test_a_whole_ladder_has_the_advantages_of_the_methods_table(n, first):
    rewards = ours("single_elimination", n, by_quality([float(n - i) for i in range(n)])).rewards
    actual = advantages_of(rewards)
    assert actual[: len(first)] == pytest.approx(first, abs=1e-6)
    assert actual[::-1] == pytest.approx([-value for value in actual])


@pytest.mark.parametrize(
    "order",
    [
        [0, 1, 2],
        [0, 3, 1, 2],
        [0, 3, 4, 1, 2],
        [0, 3, 4, 1, 2, 5],
        [0, 3, 4, 1, 6, 2, 5],
        [0, 7, 3, 4, 1, 6, 2, 5],
    ],
)
def test_the_retelling_has_the_authors_bracket(order):
    assert reference.bracket_of(list(range(len(order)))) == order


def test_the_bracket_is_the_authors_where_nobody_has_a_bye():
    from verl_ext.reward_fns.brackets import bracket_order

    for n in (2, 4, 8, 16, 32):
        assert bracket_order(n) == reference.bracket_of(list(range(n)))


@pytest.mark.parametrize("n", range(4, 17))
def test_single_elimination_never_ranks_worse_than_the_authors(n):
    # Theirs has .943 for n = 6, where the players left over meet whoever stands beside them.
    draws = [shuffled(n, seed) for seed in range(40)]
    mine, theirs = (
        [spearman(rewards(q), q) for q in draws]
        for rewards in (
            lambda q: ours("single_elimination", n, by_quality(q)).rewards,
            lambda q: reference.single_elimination(n, by_quality(q)),
        )
    )
    assert sum(mine) >= sum(theirs)
    assert min(mine) >= 0.94
    if n == 6:
        assert sum(theirs) / len(theirs) == pytest.approx(0.943, abs=0.001)


def test_deviates_where_the_best_seeds_have_the_byes():
    # Theirs of six: 0, 3, 4, 1, 2, 5 meet in neighbours, so the best seed plays the fourth.
    quality = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    theirs = reference.single_elimination(6, by_quality(quality))
    assert theirs != pytest.approx([value / 5 for value in range(5, -1, -1)])
    mine = ours("single_elimination", 6, by_quality(quality)).rewards
    assert mine == pytest.approx([value / 5 for value in range(5, -1, -1)])


def test_deviates_in_counting_the_points_of_a_pair_once():
    # Losers of the first round are 0 with 3, 9 and 5, and 3 with 7 and 4: means 5.67 and 5.5. With
    # the 3 points against 1 counted again, whom it meets in the bracket, that of 0 is 5.
    points = {(1, 0): (15, 3), (2, 0): (12, 9), (3, 0): (7, 5), (2, 3): (8, 4), (1, 2): (9, 8)}
    mine = ours("single_elimination", 4, points).rewards
    assert mine == pytest.approx([1 / 3, 1, 2 / 3, 0])
    assert reference.single_elimination(4, points) == pytest.approx([0, 1, 2 / 3, 1 / 3])


@pytest.mark.parametrize("name", tournament.TOPOLOGIES)
def test_deviates_where_the_judge_is_down(name):
    # Theirs puts 10 : 10 for a dead judge, and ranks by number: at n = 8 the anchor is the best.
    level = by_quality([10.0] * 8)
    ladder = reference.advantages(reference.single_elimination(8, level))
    expected = [1.428865, 1.020618, 0.204124, 0.612371, -0.612371, -1.428865, -1.020618, -0.204124]
    assert ladder == pytest.approx(expected, abs=1e-6)
    assert ours(name, 8, level).rewards == [0.0] * 8


def test_deviates_where_all_tie_at_different_scores():
    points = {(1, 0): (12, 12), (2, 0): (8, 8)}
    assert reference.anchor(3, points) == [0.5, 1, 0]
    assert ours("anchor", 3, points).rewards == [0, 0, 0]
