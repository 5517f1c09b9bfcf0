"""As few rematches as possible, and else what the players prefer."""

import pytest

from verl_ext.reward_fns.pairing import paired


def pairs(players, rematches, preference=lambda first, rest: rest):
    """Pairs, where these pairs have met."""
    had = {frozenset(pair) for pair in rematches}
    return paired(players, lambda a, b: frozenset((a, b)) in had, preference)


def test_without_rematches_each_gets_whom_it_prefers():
    assert pairs([0, 1, 2, 3], []) == [(0, 1), (2, 3)]
    assert pairs([0, 1, 2, 3], [], lambda first, rest: rest[::-1]) == [(0, 3), (1, 2)]
    assert pairs([], []) == []


def test_who_has_met_is_passed_over():
    assert pairs([0, 1, 2, 3], [(0, 1)]) == [(0, 2), (1, 3)]


def test_a_choice_is_taken_back_where_it_leaves_two_who_have_met():
    assert pairs([0, 1, 2, 3], [(2, 3)]) == [(0, 2), (1, 3)]
    assert pairs([0, 1, 2, 3], [(2, 3), (1, 3)]) == [(0, 3), (1, 2)]


def test_where_one_rematch_is_needed_there_is_one_and_no_more():
    met_0 = [(0, 1), (0, 2), (0, 3)]
    assert pairs([0, 1, 2, 3], met_0) == [(0, 1), (2, 3)]
    assert pairs([0, 1, 2, 3], [*met_0, (2, 3)]) == [(0, 2), (1, 3)]


def test_where_all_have_met_all_meet_again():
    everybody = [(a, b) for a in range(4) for b in range(a)]
    assert pairs([0, 1, 2, 3], everybody) == [(0, 1), (2, 3)]


def test_an_odd_number_is_refused():
    with pytest.raises(ValueError, match="only an even number can be paired, got 3 players"):
        pairs([0, 1, 2], [])
