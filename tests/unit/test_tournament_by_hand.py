"""Each topology by hand: who meets whom, and what a win, a tie or a bye is worth."""

import math
from collections import Counter

import pytest
from unit.tournament_cases import SIZES, answering, coin, noting, played, qualities, scoring

from verl_ext.reward_fns.tournament import (
    TournamentResult,
    anchor,
    double_elimination,
    round_robin,
    single_elimination,
    swiss,
)


def test_the_anchor_meets_everybody_and_has_the_mean_of_its_points():
    answers = {(1, 0): (14, 8), (2, 0): (9, 12), (3, 0): (14, 10)}
    result = played(anchor, 4, answering(answers))  # scores 10, 14, 9, 14
    assert result == TournamentResult([1 / 3, 1, 0, 1], 3, 0)


def test_another_anchor_can_be_chosen():
    asked = []
    answers = {(0, 2): (14, 8), (1, 2): (9, 12), (3, 2): (14, 10)}
    result = played(anchor, 4, noting(answering(answers), asked), anchor=2)
    assert result.rewards == [1, 0, 1 / 3, 1]
    assert all(2 in pair for pair in asked)
    asked.clear()
    played(single_elimination, 4, noting(scoring([3, 2, 1, 0]), asked), anchor=2)
    assert {frozenset(pair) for pair in asked[:3]} == {frozenset({p, 2}) for p in (0, 1, 3)}


def test_round_robin_counts_wins_and_half_wins():
    # 0 beats 1 and ties 2; 1 and 2 tie: 1.5, .5 and 1 wins.
    answers = {(0, 1): (5, 4), (0, 2): (3, 3), (1, 2): (9, 9)}
    assert played(round_robin, 3, answering(answers)).rewards == [1, 0, 0.5]


def test_round_robin_looks_at_who_won_not_at_how_high():
    answers = {(0, 1): (1, 0), (0, 2): (1, 0), (1, 2): (1000, 0)}
    assert played(round_robin, 3, answering(answers)).rewards == [1, 0.5, 0]


def test_equals_share_the_best_rank_and_the_lowest_gets_0():
    # Ranks 1, 1, 3, 3, 5 of five, so 1, 1, 1/2, 1/2, 0; without the last the lowest rank is 3.
    assert played(anchor, 5, scoring([9, 9, 5, 5, 1])).rewards == [1, 1, 0.5, 0.5, 0]
    assert played(anchor, 4, scoring([9, 9, 5, 5])).rewards == [1, 1, 0, 0]


def test_single_elimination_seeds_against_the_anchor_and_plays_a_bracket():
    asked = []
    result = played(single_elimination, 4, noting(scoring([10, 13, 7, 12]), asked))
    pairs = [frozenset(pair) for pair in asked]
    assert set(pairs[:3]) == {frozenset({0, p}) for p in (1, 2, 3)}
    assert set(pairs[3:]) == {frozenset({1, 2}), frozenset({1, 3})}  # 3 against 0 is known
    assert result.rewards == pytest.approx([1 / 3, 1, 0, 2 / 3], abs=1e-12)
    assert result.comparisons == 5


def test_the_best_seeds_have_the_byes():
    # Six players, seeds 1 and 2 have byes: only seeds 3 to 6 play in the first round.
    asked = []
    played(single_elimination, 6, noting(scoring([5, 4, 3, 2, 1, 0]), asked))
    bracket = [frozenset(pair) for pair in asked[5:]]
    assert set(bracket[:2]) == {frozenset({2, 5}), frozenset({3, 4})}
    assert set(bracket[2:]) == {frozenset({1, 2})}  # 0 against 3, and the final, are known


def test_who_loses_later_is_ranked_higher_and_then_who_has_more_points():
    # Seeds by points against 0: 1, 2, 3, 0. 1 beats 0 (known), 3 beats 2, 3 beats 1.
    answers = {
        (1, 0): (9, 1),
        (2, 0): (8, 1),
        (3, 0): (7, 4),  # the anchor's mean is 2
        (2, 3): (2, 6),
        (1, 3): (5, 6),
    }
    # Losers of the first round: 2 with the mean 5, 0 with the mean 2.
    result = played(single_elimination, 4, answering(answers))
    assert result.rewards == pytest.approx([0, 2 / 3, 1 / 3, 1], abs=1e-12)


def test_points_of_the_bracket_count_among_losers_of_a_round():
    # Seeds 1, 2, 3 and 0, whose mean is 5. 3 loses to 2 by 1 : 2, so its mean falls from 6 to 3.5.
    answers = {(1, 0): (9, 4), (2, 0): (8, 5), (3, 0): (6, 6), (2, 3): (2, 1), (1, 2): (5, 4)}
    result = played(single_elimination, 4, answering(answers))
    assert result.rewards == pytest.approx([1 / 3, 1, 2 / 3, 0], abs=1e-12)


def test_equal_losers_of_a_round_share_the_mean_of_their_places():
    # 0 and 1 are equal to 2 and 3 in turn: 2 and 3 lose their first match with equal points.
    result = played(single_elimination, 4, scoring([9, 8, 5, 5]))
    assert result.rewards == pytest.approx([1, 2 / 3, 1 / 6, 1 / 6], abs=1e-12)


def test_a_tied_match_goes_to_the_better_seed():
    for seed in range(10):
        answers = {(1, 0): (9, 0), (2, 0): (8, 0), (1, 2): (7, 7)}
        assert played(single_elimination, 3, answering(answers), seed=seed).rewards == [0, 1, 0.5]


def test_the_final_of_a_double_elimination_is_one_match():
    asked = []
    result = played(double_elimination, 2, noting(scoring([1, 2]), asked))
    assert result == TournamentResult([0, 1], 1, 0)
    assert len(asked) == 1


@pytest.mark.parametrize("n", range(6, 13))
def test_who_lost_once_plays_on_in_a_double_elimination(n):
    for seed in range(5):
        asked, quality = [], qualities(n, seed)
        result = played(double_elimination, n, noting(scoring(quality), asked), seed=seed)
        lost = Counter(min(pair, key=quality.__getitem__) for pair in asked)
        # More than the n − 1 of a bracket; a repeated match is not asked about again.
        assert n < result.comparisons <= 2 * n - 2
        assert set(lost) == {player for player in range(n) if quality[player] != n - 1}
        assert max(lost.values()) <= 2


def test_nobody_rests_again_in_a_double_elimination_before_the_others_have():
    # Of nine unbeaten there are five, three and two: three byes, for three players. So the best has
    # at least three matches before the final.
    for seed in range(20):
        asked = []
        played(double_elimination, 9, noting(scoring(range(9)), asked), seed=seed)
        assert sum(8 in pair for pair in asked) >= 3


def test_swiss_ranks_by_points_and_then_by_those_of_the_opponents():
    # Whoever 0 beats first has 1 point and met the winner: above one who met a loser.
    result = played(swiss, 4, scoring([3, 2, 1, 0]))
    assert result.rewards[0] == 1
    assert result.rewards[3] == 0
    assert sum(result.rewards) == pytest.approx(2)


@pytest.mark.parametrize("n", SIZES)
def test_swiss_has_as_many_rounds_as_it_takes_and_no_pair_meets_twice(n):
    asked = []
    rounds = min(math.ceil(math.log2(n)), n - 1)
    for seed in range(3):
        asked.clear()
        played(swiss, n, noting(coin(seed), asked), seed=seed)
        assert len({frozenset(pair) for pair in asked}) == len(asked) == rounds * (n // 2)
        games = Counter(player for pair in asked for player in pair)
        assert set(games.values()) <= {rounds, rounds - 1}  # at most one bye each


def test_the_bye_is_worth_a_win_and_goes_to_the_lowest():
    # Three players, two rounds: the loser of the first match rests in the second.
    for seed in range(10):
        asked = []
        played(swiss, 3, noting(scoring([2, 1, 0]), asked), seed=seed)
        loser = max(asked[0])
        assert loser not in asked[1]


def test_who_is_out_later_is_above_who_has_more_points():
    # The lower number wins. Whoever meets 3 gets 10 and 3 gets 9; other matches end 1 to 0.
    async def compare(i, j):
        won, lost = (10, 9) if 3 in (i, j) else (1, 0)
        return (won, lost) if i < j else (lost, won)

    for seed in range(6):
        rewards = played(double_elimination, 4, compare, seed=seed).rewards
        assert rewards == pytest.approx([1, 2 / 3, 1 / 3, 0])
