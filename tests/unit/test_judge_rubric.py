"""Rubrics, their criteria and weights: which there can be."""

import pytest

from verl_ext.reward_fns.judge_rubric import Criterion, Rubric


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rubric(" "), "rubric must not be empty"),
        (lambda: Rubric("a", (Criterion("b"), Criterion("b"))), "different names"),
        (lambda: Rubric("a", max_score=0), "max_score"),
        (lambda: Rubric("a", max_score=float("inf")), "max_score"),
        (lambda: Criterion(""), "name must not be empty"),
        (lambda: Criterion("a", 0), "weight of 'a'"),
        (lambda: Criterion("a", float("nan")), "weight of 'a'"),
        (lambda: Criterion("a", True), "weight of 'a'"),
    ],
)
def test_rubrics_that_cannot_be_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_weight_is_finite_and_a_best_score_may_be_small():
    with pytest.raises(ValueError, match="weight of 'a' must be finite"):
        Criterion("a", float("inf"))
    assert Rubric("a", max_score=0.5).max_score == 0.5
