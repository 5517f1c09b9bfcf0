"""Who wins a match that the judge has left open."""

import asyncio

import pytest

from verl_ext.reward_fns.brackets import bracket_order, decided
from verl_ext.reward_fns.comparisons import Comparisons


def judged(scores, seed):
    """Two players whom the judge has given these scores."""

    async def compare(first, second):
        return scores if scores is None or first < second else scores[::-1]

    comparisons = Comparisons(2, compare, seed=seed, max_void=1, at_most=1)
    asyncio.run(comparisons.ask([(0, 1)]))
    return comparisons


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scores", [None, (5, 5)])
def test_a_void_or_tied_match_of_equals_goes_by_lot_whoever_is_named_first(scores, seed):
    comparisons = judged(scores, seed)
    winner = comparisons.lots.index(0)
    for pair in ((0, 1), (1, 0)):
        assert decided(comparisons, *pair, [0.5, 0.5]) == (winner, 1 - winner)


@pytest.mark.parametrize("seed", range(4))
def test_strength_comes_before_the_lot_and_the_judge_before_strength(seed):
    for pair in ((0, 1), (1, 0)):
        assert decided(judged(None, seed), *pair, [0.4, 0.5]) == (1, 0)
        assert decided(judged((6, 5), seed), *pair, [0.4, 0.5]) == (0, 1)


def test_byes_fall_to_the_best_and_the_best_two_meet_last():
    assert bracket_order(1) == [0]
    assert bracket_order(3) == [0, 3, 1, 2]
    assert bracket_order(8) == [0, 7, 3, 4, 1, 6, 2, 5]
