"""Both orders of a pair: vectors, voids, position bias."""

import asyncio

import pytest

from verl_ext.reward_fns.judge import BothOrders, bidirectional, both_orders


def judge_of(answers):
    async def judge(first, second):
        return answers[first, second]

    return judge


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        ((8, 6), (7, 5), (8 + 5, 6 + 7)),
        ((8, 6), (5, 7), (8 + 7, 6 + 5)),
        (None, (3, 9), None),  # the authors' code: 14 to 8
        ((3, 9), None, None),
        (None, None, None),  # the authors' code: 10 to 10
        ((0, 0), (0, 0), (0, 0)),  # a tie is no void
    ],
)
def test_scores_are_summed_over_both_orders_and_void_where_one_is(forward, backward, expected):
    judge = judge_of({("i", "j"): forward, ("j", "i"): backward})
    assert asyncio.run(bidirectional(judge, "i", "j")) == expected


def test_the_orders_are_asked_at_the_same_time():
    asked = []

    async def judge(first, second):
        asked.append((first, second))
        while len(asked) < 2:
            await asyncio.sleep(0)
        return 1.0, 2.0

    assert asyncio.run(asyncio.wait_for(bidirectional(judge, 0, 1), 10)) == (3.0, 3.0)
    assert asked == [(0, 1), (1, 0)]


def test_a_favour_for_a_place_cancels_in_the_totals_and_is_told():
    quality = {"i": 3.0, "j": 5.0}

    async def judge(first, second):
        return quality[first] + 1.5, quality[second]

    both = asyncio.run(both_orders(judge, "i", "j"))
    assert both.totals == (3 + 3 + 1.5, 5 + 5 + 1.5)
    assert both.favour == 1.5


@pytest.mark.parametrize("both", [BothOrders((1, 2), None), BothOrders(None, (1, 2))])
def test_where_an_order_is_void_no_favour_can_be_told(both):
    assert both.favour is None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("order", [("i", "j"), ("j", "i")])
@pytest.mark.parametrize("place", [0, 1])
def test_scores_that_are_not_finite_are_refused(wrong, order, place):
    answers = {("i", "j"): (1.0, 1.0), ("j", "i"): (1.0, 1.0)}
    answers[order] = (wrong, 1.0) if place == 0 else (1.0, wrong)
    with pytest.raises(ValueError, match="finite"):
        asyncio.run(bidirectional(judge_of(answers), "i", "j"))


def test_what_a_judge_raises_is_passed_on_and_the_other_order_cancelled():
    cancelled = []

    async def judge(first, second):
        if first == "i":
            raise RuntimeError("no key")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(first)
            raise

    async def ask():
        with pytest.raises(RuntimeError, match="no key"):
            await bidirectional(judge, "i", "j")
        await asyncio.sleep(0)
        assert cancelled == ["j"]  # here: the end of the loop cancels all that is left

    asyncio.run(ask())
