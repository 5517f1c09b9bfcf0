"""Words of probability zero, and tokens that are no numbers."""

import math

import pytest
import torch
from unit.divergence_cases import ALPHAS, STUDENT, SUPPORTS, gradient, kind_of, random_logits

from verl_ext.losses.divergence import TeacherTopK, divergence, token_terms

MASKED = torch.tensor([[0.0, 1.0, -torch.inf, 0.5, -torch.inf]], dtype=torch.float64)
OTHER = torch.tensor([[0.5, 0.0, -torch.inf, -torch.inf, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
@pytest.mark.parametrize("support", SUPPORTS)
def test_between_the_extremes_words_of_probability_zero_are_harmless(alpha, support):
    student = MASKED.clone().requires_grad_()
    value = divergence(student, OTHER, **kind_of(support, alpha))
    assert 0 < value.item() < math.log(2)
    assert gradient(value, student).isfinite().all()


def test_a_word_that_neither_side_has_counts_for_nothing():
    both = torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64)
    with_hole = torch.tensor([[0.0, 1.0, 0.5, -torch.inf]], dtype=torch.float64)
    for alpha in ALPHAS:
        student = with_hole.clone().requires_grad_()
        value = divergence(student, with_hole.flip(-1).roll(-1, -1), alpha=alpha, support="full")
        expected = divergence(both, both.flip(-1), alpha=alpha, support="full")
        torch.testing.assert_close(value, expected, atol=1e-14, rtol=0)
        grad = gradient(value, student)
        assert grad.isfinite().all()
        assert grad[0, 3] == 0


def test_forward_kl_to_a_student_that_lacks_a_word_is_infinite_with_a_finite_gradient():
    # q(4) > 0 = p(4). ∂/∂z = p − q, pushed as ever.
    student = MASKED.clone().requires_grad_()
    value = divergence(student, OTHER, alpha=0.0, support="full")
    assert value.item() == math.inf
    expected = MASKED.softmax(-1) - OTHER.softmax(-1)
    torch.testing.assert_close(gradient(value, student), expected, atol=1e-15, rtol=0)


def test_reverse_kl_to_a_teacher_that_lacks_a_word_is_infinite():
    # p(3) > 0 = q(3).
    assert divergence(MASKED, OTHER, alpha=1.0, support="full").item() == math.inf
    # The other way round nothing is infinite: the student's missing word 4 is no matter.
    teacher = OTHER.clone()
    teacher[0, 3] = 0
    student = MASKED.clone().requires_grad_()
    value = divergence(student, teacher, alpha=1.0, support="full")
    assert math.isfinite(value.item())
    assert gradient(value, student).isfinite().all()


def test_a_token_that_counts_for_nothing_gets_no_nan_from_an_infinite_divergence():
    for support in SUPPORTS:
        student = MASKED.repeat(2, 1).requires_grad_()
        teacher = OTHER.repeat(2, 1)
        teacher[1] = torch.arange(5)
        values = divergence(student, teacher, **kind_of(support, 1.0, 5))
        assert values[0] == math.inf
        (values[1] + 0 * values[0].detach().nan_to_num(posinf=0)).backward()
        assert student.grad.isfinite().all()
        assert not student.grad[0].any()


def test_a_served_log_probability_of_minus_infinity_is_a_probability_of_zero():
    log_probs = torch.tensor([[math.log(0.5), -math.inf]] * 3).double()
    ids = torch.tensor([[0, 4]] * 3)
    student = STUDENT.clone().requires_grad_()
    terms = token_terms(
        student, None, TeacherTopK(ids, log_probs), alpha=0.0, support="teacher", tail=True
    )
    assert terms.divergence.isfinite().all()
    assert gradient(terms.divergence, student).isfinite().all()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("support", SUPPORTS)
def test_a_broken_token_shows_and_leaves_the_others_alone(broken, support):
    student, teacher = random_logits(3, 40)
    kind = kind_of(support)
    whole = divergence(student, teacher, **kind)
    student[1, 7] = broken
    values = divergence(student, teacher, **kind)
    assert values[1].isnan()
    assert torch.equal(values[[0, 2]], whole[[0, 2]])
