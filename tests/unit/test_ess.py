"""Effective sample size: values by hand, and what must not change it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.metrics.ess import effective_sample_size


def share(weights, mask=None):
    log_ratio = torch.tensor(weights, dtype=torch.float64).log().reshape(1, -1)
    mask = torch.ones_like(log_ratio) if mask is None else torch.tensor(mask).reshape(1, -1)
    return effective_sample_size(log_ratio, mask).item()


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.5, 1, 1.5, 4], 7**2 / (4 * (0.25 + 1 + 2.25 + 16))),
        ([1, 1, 1], 1.0),
        ([5, 5, 5], 1.0),
        ([1, 1e-30, 1e-30, 1e-30], 1 / 4),
        ([0.3], 1.0),
    ],
)
def test_it_is_the_squared_sum_over_n_times_the_sum_of_squares(weights, expected):
    assert share(weights) == pytest.approx(expected, rel=1e-12)


def test_large_weights_are_not_cut_off():
    """PipelineRL's own number for these is .940585, of weights cut off at 1.02."""
    assert share([0.5, 1, 1.5, 4]) == pytest.approx(0.628205, abs=1e-6)


def test_it_is_no_mean_over_parts():
    """Halves of the batch above give .9 and .828767, their mean .864384."""
    halves = (share([0.5, 1]) + share([1.5, 4])) / 2
    assert halves == pytest.approx(0.864384, abs=1e-6)
    assert share([0.5, 1, 1.5, 4]) < halves


def test_tokens_outside_the_mask_do_not_count_whatever_they_hold():
    log_ratio = torch.tensor([[0.0, float("nan")], [float("inf"), 1.0]])
    mask = torch.tensor([[1, 0], [0, 1]])
    expected = share([1.0, torch.e])
    assert effective_sample_size(log_ratio, mask).item() == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.floats(-300, 300), min_size=1, max_size=20), st.floats(-1000, 1000))
def test_a_factor_common_to_all_weights_changes_nothing(logs, factor):
    log_ratio = torch.tensor([logs], dtype=torch.float64)
    mask = torch.ones_like(log_ratio)
    found = effective_sample_size(log_ratio, mask)
    assert 1 / len(logs) - 1e-12 <= found <= 1
    assert effective_sample_size(log_ratio + factor, mask).item() == pytest.approx(
        found.item(), rel=1e-6
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no token is counted"):
        effective_sample_size(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="1 of 2 log ratios are NaN or infinite"):
        effective_sample_size(torch.tensor([[0.0, float("inf")]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match="log_ratio"):
        effective_sample_size(torch.zeros(1, 2), torch.zeros(2, 1))
