"""What a judge's answers become: places, rewards, void groups, and how noisy the judge was."""

import asyncio
import random
from dataclasses import replace

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.tournament_judges import JUDGE, QUESTION, TEXTS, LongerIsBetter

from verl_ext.adapters.tournament import group
from verl_ext.adapters.tournament.group import judged, noise
from verl_ext.adapters.tournament.settings import Tournament
from verl_ext.reward_fns.comparisons import Comparisons, TournamentResult
from verl_ext.reward_fns.judge_prompt import JudgedResponse


def responses(*lengths):
    return [JudgedResponse(answer="x" * length) for length in lengths]


def verdict(judge, *lengths, seed=0, **section):
    wanted = Tournament(judge=JUDGE, **section)
    return asyncio.run(judged(wanted, judge, QUESTION, responses(*lengths), seed))


def test_the_longest_of_four_wins_and_the_rewards_are_their_places():
    found = verdict(LongerIsBetter(), 2, 5, 1, 4)
    assert found.rewards == pytest.approx((1 / 3, 1, 0, 2 / 3))
    assert not found.void
    assert found.points == (2, 5, 1, 4)
    assert found.sums["comparisons"] <= 2 * 4 - 2
    assert found.sums["calls"] == 2 * found.sums["comparisons"]
    assert found.sums["seconds"] == 0.25 * found.sums["calls"]
    assert found.sums["tokens"] == 34 * found.sums["calls"]


def test_the_place_that_a_response_is_shown_at_decides_nothing_and_is_reported():
    found = verdict(LongerIsBetter(favour=3.0), 2, 5, 1, 4)
    assert found.rewards == pytest.approx((1 / 3, 1, 0, 2 / 3))
    assert found.sums["order"] / found.sums["pairs"] == pytest.approx(3.0)
    assert noise(found.sums) == pytest.approx(0.0, abs=1e-6)


def test_the_judges_mood_is_told_from_its_favour():
    judge = LongerIsBetter(favour=2.0, moods=random.Random(1))
    sums = {}
    for seed in range(200):
        for name, value in verdict(judge, 2, 5, 1, 4, seed=seed).sums.items():
            sums[name] = sums.get(name, 0) + value
    # The margin of a call moves by 1; that of both orders, halved, by 1/√2; half of it is the mood
    # of a response's mean of two calls: 1/√2/√2.
    assert noise(sums) == pytest.approx(0.5, rel=0.1)


def test_responses_that_look_alike_are_one_player():
    judge = LongerIsBetter()
    found = verdict(judge, 2, 5, 2, 5, 1)
    assert found.rewards == pytest.approx((0.5, 1, 0.5, 1, 0))
    assert all(first != second for first, second in judge.asked)
    judge = LongerIsBetter()
    assert verdict(judge, 3, 3, 3).rewards == (0, 0, 0)
    assert not judge.asked


def test_a_void_comparison_voids_the_group_and_says_why():
    found = verdict(LongerIsBetter(fails=lambda *shown: "x" in shown), 2, 5, 1, 4)
    assert found.void
    assert found.rewards == (0, 0, 0, 0)
    assert found.sums["void"] >= 1
    assert found.sums["failed/timeout"] >= 1


def test_a_share_of_void_comparisons_may_be_allowed():
    def fails(first, second):
        return (first, second) == ("xxxx", "xxxxx")  # the best two meet whoever is the anchor

    assert verdict(LongerIsBetter(fails=fails), 2, 5, 1, 4).void
    found = verdict(LongerIsBetter(fails=fails), 2, 5, 1, 4, max_void=0.5)
    assert not found.void
    assert found.sums["void"] == 1
    assert sorted([found.rewards[1], found.rewards[3]]) == pytest.approx([2 / 3, 1])


def test_the_anchor_is_drawn_and_the_first_where_it_is_greedy():
    def anchors(**section):
        found = set()
        for seed in range(40):
            judge = LongerIsBetter()
            verdict(judge, 2, 5, 1, 4, seed=seed, topology="anchor", **section)
            meets = [sum(answer in asked for asked in judge.asked) for answer in TEXTS]
            found.add(TEXTS[meets.index(6)])
        return found

    assert anchors() == set(TEXTS)
    assert anchors(anchor={"greedy": True}) == {TEXTS[0]}


def test_who_is_the_anchor_says_nothing_of_who_wins_ties(monkeypatch):
    same = []

    async def topology(n, compare, *, seed, max_void, anchor):
        lots = Comparisons(n, compare, seed=seed, max_void=max_void, at_most=1).lots
        same.append(lots[0] == anchor)
        return TournamentResult(None, comparisons=0, void=0)

    monkeypatch.setitem(group.TOPOLOGIES, "anchor", topology)
    for seed in range(200):
        verdict(LongerIsBetter(), 2, 5, 1, 4, seed=seed, topology="anchor")
    assert 30 < sum(same) < 70  # of a quarter: 50, with a deviation of 6


class Contrasting(LongerIsBetter):
    """Points that do not add up to the same in every order."""

    async def pair(self, question, first, second):
        found = await super().pair(question, first, second)
        one, other = found.scores
        return replace(found, scores=(one + other / 7, other + one / 11))

    async def single(self, question, response, seed=None):
        found = await super().single(question, response, seed)
        return replace(found, score=found.score / 7)


@pytest.mark.parametrize("topology", ["single_elimination", "swiss", "pointwise"])
def test_when_answers_come_decides_nothing(topology):
    calls = {"calls": 4} if topology == "pointwise" else {}
    lengths = [3, 1, 4, 1, 5, 9, 2, 6]
    found = {
        repr(verdict(Contrasting(delays=random.Random(n)), *lengths, topology=topology, **calls))
        for n in range(8)
    }
    assert len(found) == 1


def test_pointwise_judges_each_response_alone_and_as_often_as_asked():
    judge = LongerIsBetter()
    found = verdict(judge, 2, 5, 2, topology="pointwise", calls=3)
    assert sorted(judge.asked) == [("xx", s) for s in range(3)] + [("x" * 5, s) for s in range(3)]
    assert found.rewards == pytest.approx((0.3, 0.6, 0.3))  # means of 2, 3, 4 and of 5, 6, 7
    assert found.points == (3, 6, 3)
    # Three calls with the variance 1: that of their mean is 1/3.
    assert noise(found.sums) == pytest.approx((1 / 3) ** 0.5)
    lost = verdict(
        LongerIsBetter(fails=lambda answer, seed: seed == 1), 2, 5, topology="pointwise", calls=3
    )
    assert lost.void
    assert lost.rewards == (0, 0)
    kept = verdict(
        LongerIsBetter(fails=lambda answer, seed: seed == 1), 2, 5, topology="pointwise", calls=3,
        max_void=0.4,
    )  # fmt: skip
    assert kept.rewards == pytest.approx((0.3, 0.6))
    unheard = verdict(
        LongerIsBetter(fails=lambda answer, seed: answer == "xx"), 2, 5, 6, 7,
        topology="pointwise", calls=1, max_void=0.4,
    )  # fmt: skip
    assert unheard.void
