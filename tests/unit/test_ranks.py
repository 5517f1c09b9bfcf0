"""Ranks against counting: pairs one by one, places one by one."""

import math
from itertools import product
from statistics import fmean

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from verl_ext.metrics.ranks import auc, ranks, spearman


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def places(values):
    """The definition: the mean of the places that equals would take in either order."""
    ordered = sorted(values)
    return [
        fmean(place for place, other in enumerate(ordered, start=1) if other == value)
        for value in values
    ]


def pairs_won(scores, positive):
    """The definition: of all pairs of a positive and another, those in order; equals count half."""
    chosen = [score for score, label in zip(scores, positive, strict=True) if label]
    others = [score for score, label in zip(scores, positive, strict=True) if not label]
    won = [(a > b) + 0.5 * (a == b) for a, b in product(chosen, others)]
    return fmean(won)


def pearson(left, right):
    left, right = ([v - fmean(values) for v in values] for values in (left, right))
    both = sum(a * b for a, b in zip(left, right, strict=True))
    return both / math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))


labelled = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12)


@settings(deadline=None)  # a busy machine
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_equals_share_the_mean_of_their_places(values):
    assert ranks(tensor(values)).tolist() == places(values)


@settings(deadline=None)  # a busy machine
@given(labelled)
def test_the_area_is_the_share_of_the_pairs_in_order(rows):
    scores, positive = [list(column) for column in zip(*rows, strict=True)]
    assume(len(set(positive)) == 2)
    area = auc(tensor(scores), torch.tensor(positive))
    assert area == pytest.approx(pairs_won(scores, positive), abs=1e-12)
    turned = auc(-tensor(scores), torch.tensor(positive))
    assert area + turned == pytest.approx(1, abs=1e-12)
    assert auc(tensor(scores).exp(), torch.tensor(positive)) == area  # monotone: nothing changes


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.1, 0.9], [0, 1], 1.0),
        ([0.9, 0.1], [0, 1], 0.0),
        ([0.5, 0.5], [0, 1], 0.5),
        ([1, 2, 3, 4], [0, 1, 0, 1], 0.75),
        ([0, 0, 0, 1], [0, 0, 1, 1], 0.75),  # exact match that finds every second right answer
        ([float(2**24), float(2**24 + 2)], [0, 1], 1.0),
    ],
)
def test_areas_by_hand(scores, positive, area):
    assert auc(tensor(scores), torch.tensor(positive)) == area
    assert auc(torch.tensor(scores), torch.tensor(positive).float()) == area


@settings(deadline=None)  # a busy machine
@given(labelled, st.lists(st.integers(-3, 3), min_size=12, max_size=12))
def test_the_correlation_is_that_of_the_places(rows, others):
    first, second = [value for value, _ in rows], others[: len(rows)]
    assume(len(set(first)) > 1 and len(set(second)) > 1)
    expected = pearson(places(first), places(second))
    assert spearman(tensor(first), tensor(second)) == pytest.approx(expected, abs=1e-12)


def test_the_correlation_by_hand():
    assert spearman(tensor([1, 2, 3]), tensor([1, 10, 100])) == pytest.approx(1)
    assert spearman(tensor([1, 2, 3]), tensor([3, 2, 1])) == pytest.approx(-1)
    # One swap of five: 1 - 6 (1 + 1) / (5 (25 - 1)) = 0.9
    assert spearman(tensor([1, 2, 3, 4, 5]), tensor([2, 1, 3, 4, 5])) == pytest.approx(0.9)


@pytest.mark.parametrize("positive", [[0, 0], [1, 1]])
def test_one_kind_alone_has_no_area(positive):
    with pytest.raises(ValueError, match="both kinds"):
        auc(tensor([0, 1]), torch.tensor(positive))


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="values"):
        auc(tensor([0, math.nan]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="0 or 1"):
        auc(tensor([0, 1]), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="shape"):
        auc(tensor([0, 1]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="differ"):
        spearman(tensor([1, 1]), tensor([0, 1]))


def test_the_correlation_of_one_value_with_many_is_refused():
    with pytest.raises(ValueError, match="shapes must be equal"):
        spearman(tensor([0, 1]), tensor([1]))
