"""The divergence of two lists of log-probabilities, against its formula written out."""

import math

import pytest
import torch

from verl_ext.losses.divergence_math import (
    DivergenceKind,
    mass_outside,
    pointwise,
    slopes_only,
    support_divergence,
)

ALPHAS = (0.0, 0.25, 0.5, 1.0)
P = torch.tensor([[0.1, 0.2, 0.4, 0.3], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
Q = torch.tensor([[0.3, 0.1, 0.2, 0.4], [0.7, 0.1, 0.1, 0.1]], dtype=torch.float64)


def close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def divergence(p, q, alpha):
    """Of whole distributions, per row."""
    if alpha == 0:
        return (q * (q / p).log()).sum(-1)
    if alpha == 1:
        return (p * (p / q).log()).sum(-1)
    mixed = (1 - alpha) * p + alpha * q
    kl = [(side * (side / mixed).log()).sum(-1) for side in (p, q)]
    return (1 - alpha) * kl[0] + alpha * kl[1]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_terms_sum_to_the_divergence(alpha):
    terms, _ = pointwise(P.log(), Q.log(), alpha)
    close(terms.sum(-1), divergence(P, Q, alpha))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_slopes_are_the_derivatives_of_the_divergence(alpha):
    student = P.log().requires_grad_()
    divergence(student.exp(), Q, alpha).sum().backward()
    _, slopes = pointwise(P.log(), Q.log(), alpha)
    # The terms of α between drop what sums to nothing over a whole distribution: compare along it.
    along = torch.tensor([[1.0, -1, 0, 0], [0, 1, 1, -2]], dtype=torch.float64) / P
    close((slopes * along).sum(-1), (student.grad * along).sum(-1))
    close(slopes_only(P.log(), Q.log(), P, alpha), slopes)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equal_sides_give_exactly_nothing(alpha):
    assert not pointwise(P.log(), P.log(), alpha)[0].any()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_what_neither_side_has_adds_nothing(alpha):
    nothing = torch.tensor([-math.inf], dtype=torch.float64)
    terms, slopes = pointwise(nothing, nothing, alpha)
    assert terms.item() == slopes.item() == 0
    assert slopes_only(nothing, nothing, nothing.exp(), alpha).item() == 0


@pytest.mark.parametrize("alpha", [0.25, 0.5])
def test_between_the_ends_what_one_side_lacks_has_a_finite_price(alpha):
    some, none = torch.tensor([0.3], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    missing = pointwise(none.log(), some.log(), alpha)[0].item()
    assert missing == pytest.approx(alpha * 0.3 * math.log(1 / alpha), abs=1e-12)
    extra = pointwise(some.log(), none.log(), alpha)[0].item()
    assert extra == pytest.approx((1 - alpha) * 0.3 * math.log(1 / (1 - alpha)), abs=1e-12)


@pytest.mark.parametrize(("alpha", "infinite"), [(0.0, "student"), (1.0, "teacher")])
def test_at_the_ends_what_the_other_lacks_has_an_infinite_price(alpha, infinite):
    sides = {"student": torch.tensor([0.3]).log(), "teacher": torch.tensor([0.3]).log()}
    sides[infinite] = torch.tensor([-math.inf])
    assert pointwise(**sides, alpha=alpha)[0].item() == math.inf


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_on_a_support_it_is_the_divergence_with_a_tail_or_renormalised(alpha, tail):
    def plain(student):
        p, q = student.exp(), Q[:, :2]
        if tail:
            p, q = (torch.cat([side, 1 - side.sum(-1, keepdim=True)], -1) for side in (p, q))
        else:
            p, q = (side / side.sum(-1, keepdim=True) for side in (p, q))
        return divergence(p, q, alpha)

    student = P[:, :2].log().requires_grad_()
    expected = plain(student)
    expected.sum().backward()
    found, slopes = support_divergence(student.detach(), Q[:, :2].log(), alpha=alpha, tail=tail)
    close(found, expected.detach())
    close(slopes, student.grad)


def test_a_tail_without_mass_is_held_and_does_not_pull():
    whole = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    other = torch.tensor([[0.2, 0.3]], dtype=torch.float64).log()
    found, slopes = support_divergence(whole, other, alpha=1.0, tail=True)
    held = -math.expm1(-1e-7)  # of its mass at least so much
    tail = held * math.log(held / 0.5)
    expected = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.3) + tail
    assert found.item() == pytest.approx(expected, abs=1e-12)
    close(
        slopes,
        torch.tensor([[0.5 * math.log(2.5) + 0.5, 0.5 * math.log(5 / 3) + 0.5]]).double(),
        1e-7,
    )


def test_the_mass_outside_is_never_negative():
    mass = torch.tensor([[0.1, 0.2], [0.5, 0.5], [0.6, 0.6]], dtype=torch.float64)
    outside = mass_outside(mass.log())
    close(outside, torch.tensor([0.7, 0, 0], dtype=torch.float64))
    assert (outside >= 0).all()


GOOD = {"alpha": 0.5, "top_k": 3, "support": "student", "tail": True}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": True}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": 1.1}, "alpha"),
        ({"support": "both"}, "support must be one of"),
        ({"tail": 1}, "tail must be True or False"),
        ({"top_k": None}, "needs top_k"),
        ({"top_k": 0}, "whole number >= 1"),
        ({"top_k": True}, "whole number >= 1"),
        ({"top_k": 2.0}, "whole number >= 1"),
    ],
)
def test_a_divergence_that_there_is_not_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        DivergenceKind(**GOOD | wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"alpha": 0},
        {"alpha": 1},
        {"top_k": 1},
        {"support": "teacher"},
        {"support": "full", "top_k": None},
    ],
)
def test_the_ends_of_every_range_are_in_it(right):
    assert DivergenceKind(**GOOD | right)
