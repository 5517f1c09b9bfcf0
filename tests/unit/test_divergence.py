"""The divergence from a teacher: its values, and what it is a function of."""

import math

import pytest
import torch
from unit.divergence_cases import (
    ALPHAS,
    STUDENT,
    SUPPORTS,
    TEACHER,
    gradient,
    kind_of,
    random_logits,
)

from verl_ext.losses.divergence import TeacherLogits, TeacherTopK, divergence, token_terms

# --- values -------------------------------------------------------------------------------------


def kl(p, q):
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, [0.498224, 0, 0.368064]),
        (0.25, [0.092174, 0, 0.071881]),
        (0.5, [0.125101, 0, 0.101749]),
        (1.0, [0.584996, 0, 0.510826]),
    ],
)
def test_the_official_figures_with_a_tail(alpha, expected):
    values = divergence(STUDENT, TEACHER, alpha=alpha, top_k=2)
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), atol=5e-7, rtol=0
    )


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.0, [0.711748, 0, 0]), (0.5, [0.178715, 0, 0]), (1.0, [0.835709, 0, 0])],
)
def test_the_official_figures_without_a_tail_are_blind_to_the_third_token(alpha, expected):
    values = divergence(STUDENT, TEACHER, alpha=alpha, top_k=2, tail=False)
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), atol=5e-7, rtol=0
    )


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, [0.526992, 0, 0.418841]),
        (0.5, [0.131865, 0, 0.111017]),
        (1.0, [0.611159, 0, 0.540368]),
    ],
)
def test_the_official_figures_on_the_full_vocabulary(alpha, expected):
    values = divergence(STUDENT, TEACHER, alpha=alpha, support="full")
    torch.testing.assert_close(
        values, torch.tensor(expected, dtype=torch.float64), atol=5e-7, rtol=0
    )


@pytest.mark.parametrize(("alpha", "mean"), [(0.001, 0.00031494), (0.999, 0.00038322)])
def test_alpha_is_no_smooth_knob(alpha, mean):
    values = divergence(STUDENT, TEACHER, alpha=alpha, support="full")
    assert values.mean().item() == pytest.approx(mean, abs=5e-9)


def test_the_first_token_by_hand():
    # Categories 0, 1 and the rest: p = (.5, .2, .3), q = (.1, .6, .3).
    p, q = (0.5, 0.2, 0.3), (0.1, 0.6, 0.3)
    mixture = [0.75 * a + 0.25 * b for a, b in zip(p, q, strict=True)]
    by_hand = {
        0.0: kl(q, p),
        1.0: kl(p, q),
        0.25: 0.75 * kl(p, mixture) + 0.25 * kl(q, mixture),
    }
    for alpha, expected in by_hand.items():
        value = divergence(STUDENT[0], TEACHER[0], alpha=alpha, top_k=2)
        assert value.item() == pytest.approx(expected, abs=1e-14)


def test_the_tail_keeps_a_truncated_forward_kl_from_being_negative():
    # Teacher's two likeliest words .3 and .2, the student gives them .4 and .3. Without the rest
    # the sum is .3 log(3/4) + .2 log(2/3) = −.1674; the rest adds .5 log(5/3).
    student = torch.tensor([[0.4, 0.3, 0.15, 0.15]], dtype=torch.float64).log()
    ids, log_probs = torch.tensor([[0, 1]]), torch.tensor([[0.3, 0.2]], dtype=torch.float64).log()
    terms = token_terms(
        student, None, TeacherTopK(ids, log_probs), alpha=0.0, support="teacher", tail=True
    )
    truncated = 0.3 * math.log(3 / 4) + 0.2 * math.log(2 / 3)
    assert truncated == pytest.approx(-0.167398, abs=5e-7)
    assert terms.divergence.item() == pytest.approx(0.088015, abs=5e-7)
    assert terms.divergence.item() == pytest.approx(truncated + 0.5 * math.log(5 / 3), abs=1e-14)
    assert terms.student_tail.item() == pytest.approx(0.3)
    assert terms.teacher_tail.item() == pytest.approx(0.5)


def test_the_tail_is_never_less_than_1e_minus_7():
    # The student has everything on word 0; of the teacher a tenth is elsewhere. Forward KL:
    # .9 log(.9/1) + .1 (log .1 − log 1e-7), and log 1e-7 is −16.1181.
    student = torch.tensor([[0.0, -torch.inf]], dtype=torch.float64)
    teacher = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    value = divergence(student, teacher, alpha=0.0, top_k=1)
    least = math.log(-math.expm1(-1e-7))
    assert least == pytest.approx(-16.118096, abs=5e-7)
    assert value.item() == pytest.approx(0.9 * math.log(0.9) + 0.1 * (math.log(0.1) - least))


def test_a_held_tail_passes_no_gradient():
    # Student mass on the support is 1 − 2e-9: D moves with log p of word 0 alone, by −q(0) = −.5.
    student = torch.tensor([[0.0, -20.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    grad = gradient(divergence(student, teacher, alpha=0.0, top_k=1), student)
    p = student.detach().softmax(-1)[0]
    expected = torch.stack([-0.5 * (1 - p[0]), 0.5 * p[1]])
    torch.testing.assert_close(grad[0], expected, atol=1e-15, rtol=1e-6)


# --- what it is a function of -------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_equal_logits_give_exactly_zero(alpha, support, tail, dtype):
    logits = random_logits(6, 50, dtype=dtype)[0].requires_grad_()
    values = divergence(logits, logits, **kind_of(support, alpha, tail=tail))
    assert torch.equal(values, torch.zeros_like(values))
    assert gradient(values, logits).abs().max() < (1e-6 if dtype != torch.float64 else 1e-14)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("support", ["student", "teacher"])
@pytest.mark.parametrize("tail", [True, False])
def test_a_support_of_the_whole_vocabulary_is_the_full_divergence(alpha, support, tail):
    student, teacher = random_logits(5, 7)
    student.requires_grad_()
    values = divergence(student, teacher, alpha=alpha, top_k=7, support=support, tail=tail)
    full = divergence(student, teacher, alpha=alpha, support="full")
    torch.testing.assert_close(values, full, atol=1e-14, rtol=0)
    torch.testing.assert_close(
        gradient(values, student), gradient(full, student), atol=1e-14, rtol=0
    )


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("tail", [True, False])
def test_a_vocabulary_of_one_word_has_no_divergence(alpha, support, tail):
    student = torch.tensor([[3.0], [-2.0]], requires_grad=True)
    values = divergence(student, torch.tensor([[1.0], [7.0]]), **kind_of(support, alpha, 1, tail))
    assert torch.equal(values, torch.zeros(2))
    assert not gradient(values, student).any()


@pytest.mark.parametrize("support", SUPPORTS)
def test_leading_axes_are_kept(support):
    student, teacher = random_logits(2, 3, 4, 9)
    kind = kind_of(support)
    values = divergence(student, teacher, **kind)
    assert values.shape == (2, 3, 4)
    assert torch.equal(values[1, 2, 3], divergence(student[1, 2, 3], teacher[1, 2, 3], **kind))
    assert divergence(student[0, 0, 0], teacher[0, 0, 0], **kind).shape == ()
    assert divergence(student[:0], teacher[:0], **kind).shape == (0, 3, 4)


def test_logits_in_another_memory_order_are_read_right():
    student, teacher = random_logits(9, 6)
    there = divergence(student.T, teacher.T, alpha=0.5, top_k=3)
    assert torch.equal(
        there, divergence(student.T.contiguous(), teacher.T.clone(), alpha=0.5, top_k=3)
    )


@pytest.mark.parametrize("support", SUPPORTS)
def test_the_teacher_gets_no_gradient_and_no_input_changes(support):
    student, teacher = random_logits(4, 40)
    before = student.clone(), teacher.clone()
    student.requires_grad_()
    teacher.requires_grad_()
    divergence(student, teacher, **kind_of(support)).sum().backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0
    assert torch.equal(student.detach(), before[0])
    assert torch.equal(teacher.detach(), before[1])


@pytest.mark.parametrize("support", SUPPORTS)
def test_a_shift_of_the_logits_changes_nothing(support):
    student, teacher = random_logits(4, 40)
    values = divergence(student, teacher, **kind_of(support))
    shifted = divergence(student + 1000, teacher - 500, **kind_of(support))
    torch.testing.assert_close(values, shifted, atol=1e-11, rtol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("tail", [True, False])
def test_autograds_own_check_of_the_gradient(alpha, support, tail):
    student, teacher = random_logits(4, 6)
    labels, rows = torch.tensor([1, 5, 0]), torch.tensor([0, 1, 3])

    def both(logits):
        terms = token_terms(
            logits,
            labels,
            TeacherLogits(teacher),
            rows=rows,
            chunk_tokens=2,
            **kind_of(support, alpha, 3, tail),
        )
        return terms.log_probs, terms.divergence

    assert torch.autograd.gradcheck(both, student.requires_grad_())
