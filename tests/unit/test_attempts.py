"""Attempts at one question: the count of a sampler that stops at the first success."""

import math

import pytest

from verl_ext.self_teaching.attempts import Attempts


def test_failures_are_counted_and_the_first_success_ends_it():
    attempts = Attempts()
    assert attempts.see([0.0, 0.0, 0.0]) is None
    assert (attempts.count, attempts.solved) == (3, False)
    assert attempts.see([0.0, 1.0, 1.0, 0.0]) == 1
    assert (attempts.count, attempts.solved) == (5, True)
    assert attempts.see([1.0, 1.0]) is None
    assert attempts.count == 5


@pytest.mark.parametrize(("score", "place"), [(0.49, None), (0.5, 0), (0.51, 0)])
def test_the_threshold_itself_is_a_success(score, place):
    assert Attempts(success_threshold=0.5).see([score]) == place


def test_no_responses_are_no_attempts():
    attempts = Attempts()
    assert attempts.see([]) is None
    assert attempts.count == 0


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(broken):
    with pytest.raises(ValueError, match="mend the reward"):
        Attempts().see([0.0, broken])
    with pytest.raises(ValueError, match="success_threshold must be finite"):
        Attempts(success_threshold=broken)


def test_a_score_that_is_no_number_is_refused_after_a_success_too():
    with pytest.raises(ValueError, match="mend the reward"):
        Attempts(solved=True).see([0.0, math.nan])
