from fractions import Fraction
from itertools import combinations
from math import comb, nan

import pytest
import torch

from verl_ext.metrics.pass_at_k import pass_at_k, pass_at_k_curve


def enumerated(correct, n, k):
    """The share of the subsets of k samples that hold a correct one."""
    outcomes = [1] * correct + [0] * (n - correct)
    subsets = list(combinations(outcomes, k))
    return Fraction(sum(any(subset) for subset in subsets), len(subsets))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_every_estimate_equals_the_enumeration_of_all_subsets(n):
    counts = torch.arange(n + 1)
    for k in range(1, n + 1):
        exact = torch.tensor(
            [float(enumerated(c, n, k)) for c in range(n + 1)], dtype=torch.float64
        )
        torch.testing.assert_close(pass_at_k(counts, n, k), exact)


def test_the_closed_form_at_the_papers_size():
    # n = 256: the binomials have 76 digits, the product none of them.
    for correct, k in [(1, 1), (1, 128), (3, 64), (128, 2), (250, 200)]:
        exact = 1 - Fraction(comb(256 - correct, k), comb(256, k))
        estimate = pass_at_k(torch.tensor([correct]), 256, k).item()
        assert estimate == pytest.approx(float(exact), rel=1e-12)


def test_none_correct_is_exactly_zero_and_enough_correct_exactly_one():
    assert pass_at_k(torch.tensor([0]), 256, 100).item() == 0
    assert pass_at_k(torch.tensor([157]), 256, 100).item() == 1  # 99 wrong, 100 drawn


def test_the_curve_runs_from_mean_accuracy_to_the_share_of_solved_prompts():
    outcomes = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]])
    curve = pass_at_k_curve(outcomes)
    assert curve.shape == (4,)
    assert curve[0] == 5 / 16
    assert curve[-1] == 3 / 4


def test_the_curve_averages_prompts_and_not_pooled_samples():
    # k = 2 of 2: prompt one 1, prompt two 0. Pooled, 2 of 4 correct would give 1 − 1/6.
    assert pass_at_k_curve(torch.tensor([[1, 1], [0, 0]])).tolist() == [0.5, 0.5]


def test_the_curve_has_a_value_for_each_sample_however_many_prompts_there_are():
    # Of 3 samples 1 and 2 are correct: (1/3 + 2/3)/2, (2/3 + 1)/2, 1.
    curve = pass_at_k_curve(torch.tensor([[1, 0, 0], [1, 1, 0]]))
    assert curve.tolist() == pytest.approx([1 / 2, 5 / 6, 1])


def test_the_curve_never_decreases():
    outcomes = torch.rand(20, 16, generator=torch.Generator().manual_seed(0)) < 0.2
    assert (pass_at_k_curve(outcomes).diff() >= 0).all()


def test_the_order_of_samples_is_indifferent():
    first = pass_at_k_curve(torch.tensor([[1, 0, 0], [0, 1, 1]]))
    assert torch.equal(first, pass_at_k_curve(torch.tensor([[0, 0, 1], [1, 1, 0]])))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.float64])
def test_outcomes_of_any_dtype(dtype):
    outcomes = torch.tensor([[1, 0], [1, 1]]).to(dtype)
    assert pass_at_k_curve(outcomes).tolist() == [0.75, 1.0]


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_outside_one_to_n_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and n=4, got {k}"):
        pass_at_k(torch.tensor([1]), 4, k)


@pytest.mark.parametrize("count", [-1, 5, 1.5, nan])
def test_a_count_that_cannot_be_is_refused_and_shown(count):
    with pytest.raises(ValueError, match="whole numbers from 0 to n=4") as error:
        pass_at_k(torch.tensor([1, count]), 4, 2)
    assert f"[{float(count)}]" in str(error.value)


@pytest.mark.parametrize("outcome", [-1.0, 0.5, nan])
def test_an_outcome_other_than_0_or_1_is_refused(outcome):
    with pytest.raises(ValueError, match="outcomes must be 0 or 1") as error:
        pass_at_k_curve(torch.tensor([[1.0, outcome]]))
    assert str(error.value).endswith(f"got [{outcome:.1f}]")


def test_no_outcomes_are_refused():
    with pytest.raises(ValueError, match="at least one outcome"):
        pass_at_k_curve(torch.zeros(0, 4))
