import math

import pytest
import torch

from verl_ext.losses.divergence import (
    TeacherLogits,
    TeacherOnStudentTopK,
    TeacherTopK,
    VocabShard,
    divergence,
    token_terms,
)
from verl_ext.losses.softmax import _peaks
from verl_ext.losses.vocabulary import BLOCK, top_ids

ALPHAS = (0.0, 0.25, 0.5, 1.0)
SUPPORTS = ("student", "teacher", "full")

# Three tokens over five words; the student's two likeliest words are 0 and 1 at each token.
STUDENT = torch.tensor(
    [[0.5, 0.2, 0.15, 0.1, 0.05], [0.7, 0.1, 0.1, 0.05, 0.05], [0.25, 0.25, 0.2, 0.2, 0.1]],
    dtype=torch.float64,
).log()
TEACHER = torch.tensor(
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.05, 0.05], [0.05, 0.05, 0.3, 0.5, 0.1]],
    dtype=torch.float64,
).log()


def random_logits(*shape, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64)).to(dtype)


def kind_of(support, alpha=0.5, top_k=4, tail=True):
    top_k = None if support == "full" else top_k
    return {"alpha": alpha, "support": support, "top_k": top_k, "tail": tail}


def gradient(loss, logits):
    return torch.autograd.grad(loss.sum(), logits)[0]


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


# --- which tokens are the support ---------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 31, 64, 300, 1000, 1024])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("top_k", [1, 5])
def test_the_support_is_the_likeliest_words_and_of_equals_the_first(size, dtype, top_k):
    # Few distinct values, both zeros and −inf among them: nearly every place is contested.
    generator = torch.Generator().manual_seed(size)
    logits = torch.randint(-3, 3, (40, size), generator=generator).to(dtype)
    logits[:, ::3] *= -1
    logits[5] = -torch.inf
    logits[5, -top_k:] = 0
    expected = [
        sorted(range(size), key=lambda word, row=row: (-row[word], word))[:top_k]
        for row in logits.tolist()
    ]
    assert top_ids(logits, _peaks(logits)[1], top_k).tolist() == expected
    assert top_ids(logits, None, top_k).tolist() == expected


def test_blocks_are_used_where_the_vocabulary_is_large():
    logits = random_logits(3, 10 * BLOCK + 7, dtype=torch.float32)[0]
    logits[1, -1] = 100.0  # behind the last whole block
    peak, blocks = _peaks(logits)
    assert blocks.shape == (3, 10)
    assert torch.equal(peak, logits.amax(-1))
    assert divergence(logits, logits * 2, alpha=1.0, top_k=3).isfinite().all()


def test_the_statistics_are_masses_outside_and_the_overlap():
    teacher = TeacherLogits(TEACHER)
    terms = token_terms(STUDENT, None, teacher, alpha=0.5, support="student", top_k=2, tail=False)
    # Words 0 and 1: student .7, .8, .5; teacher .7, .8, .1. Teacher's two likeliest: {1, 0}, since
    # of four equals the first is taken; {0, 1}; {3, 2}.
    torch.testing.assert_close(
        terms.student_tail, torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64)
    )
    torch.testing.assert_close(
        terms.teacher_tail, torch.tensor([0.3, 0.2, 0.9], dtype=torch.float64)
    )
    assert terms.overlap.tolist() == [1, 1, 0]
    by_teacher = token_terms(
        STUDENT, None, teacher, alpha=0.5, support="teacher", top_k=2, tail=True
    )
    torch.testing.assert_close(
        by_teacher.student_tail, torch.tensor([0.3, 0.2, 0.6], dtype=torch.float64)
    )
    torch.testing.assert_close(
        by_teacher.teacher_tail, torch.tensor([0.3, 0.2, 0.2], dtype=torch.float64)
    )
    assert by_teacher.overlap.tolist() == [1, 1, 0]
    for statistic in (*terms[2:], *by_teacher[2:]):
        assert not statistic.requires_grad


def test_the_full_vocabulary_has_no_tail_and_an_overlap_only_with_a_k():
    teacher = TeacherLogits(TEACHER)
    plain = token_terms(STUDENT, None, teacher, alpha=0.5, support="full", tail=True)
    assert plain.overlap.isnan().all()
    assert not plain.student_tail.any()
    assert not plain.teacher_tail.any()
    with_k = token_terms(STUDENT, None, teacher, alpha=0.5, support="full", tail=True, top_k=2)
    assert with_k.overlap.tolist() == [1, 1, 0]
    assert torch.equal(with_k.divergence, plain.divergence)


def test_a_served_teacher_has_an_overlap_with_the_student():
    ids = torch.tensor([[0, 4], [3, 4], [1, 0]])
    log_probs = torch.full((3, 2), math.log(0.25)).double()
    terms = token_terms(
        STUDENT, None, TeacherTopK(ids, log_probs), alpha=0.0, support="teacher", tail=True
    )
    assert terms.overlap.tolist() == [0.5, 0, 1]
    torch.testing.assert_close(terms.teacher_tail, torch.full((3,), 0.5).double())


# --- log-probabilities, rows and chunks ---------------------------------------------------------


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_log_probs_and_divergence_are_those_of_two_separate_passes(support, dtype):
    student, teacher = random_logits(7, 90, dtype=dtype)
    labels = torch.tensor([0, 89, 3, 3, 50, 7, 1])
    student.requires_grad_()
    terms = token_terms(student, labels, TeacherLogits(teacher), **kind_of(support))
    exact = student.detach().double().requires_grad_()
    expected = exact.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    alone = divergence(student, teacher, **kind_of(support))
    bound = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(terms.log_probs.double(), expected, atol=bound, rtol=bound)
    assert torch.equal(terms.divergence, alone)
    weights = torch.linspace(-1, 1, 7)
    together = gradient(terms.log_probs * weights + 2 * terms.divergence, student)
    separate = gradient(expected * weights, exact) + gradient(2 * alone, student).double()
    bound = 2e-2 if dtype == torch.bfloat16 else bound
    torch.testing.assert_close(together.double(), separate, atol=bound, rtol=bound)


def test_each_output_may_be_differentiated_alone():
    student, teacher = random_logits(5, 30)
    student.requires_grad_()
    labels = torch.arange(5)
    terms = token_terms(student, labels, TeacherLogits(teacher), **kind_of("student"))
    grad = torch.autograd.grad(terms.log_probs.sum(), student, retain_graph=True)[0]
    expected = torch.eye(30).double()[labels] - student.detach().softmax(-1)
    torch.testing.assert_close(grad, expected, atol=1e-14, rtol=0)
    alone = divergence(student, teacher, **kind_of("student"))
    assert torch.equal(gradient(terms.divergence, student), gradient(alone, student))


@pytest.mark.parametrize("support", SUPPORTS)
def test_rows_select_tokens_and_the_others_get_exactly_zero(support):
    student, teacher = random_logits(8, 40)
    student.requires_grad_()
    rows, labels = torch.tensor([1, 2, 6]), torch.tensor([4, 0, 39])
    kind = kind_of(support)
    some = token_terms(student, labels, TeacherLogits(teacher), rows=rows, **kind)
    picked = token_terms(student[rows], labels, TeacherLogits(teacher[rows]), **kind)
    for value, expected in zip(some, picked, strict=True):
        torch.testing.assert_close(value, expected, equal_nan=True, atol=0, rtol=0)
    grad = gradient(some.log_probs + some.divergence, student)
    assert torch.equal(grad, gradient(picked.log_probs + picked.divergence, student))
    others = torch.ones(8, dtype=torch.bool)
    others[rows] = False
    assert not grad[others].any()


def test_nan_in_a_token_that_is_not_selected_goes_nowhere():
    student, teacher = random_logits(4, 40)
    student[0], teacher[3] = math.nan, math.nan
    student.requires_grad_()
    rows = torch.tensor([1, 2])
    terms = token_terms(student, None, TeacherLogits(teacher), rows=rows, **kind_of("student"))
    assert terms.divergence.isfinite().all()
    assert gradient(terms.divergence, student).isfinite().all()


@pytest.mark.parametrize("support", SUPPORTS)
def test_no_selected_token_is_no_error(support):
    student, teacher = random_logits(4, 40)
    student.requires_grad_()
    nothing = torch.empty(0, dtype=torch.int64)
    terms = token_terms(student, nothing, TeacherLogits(teacher), rows=nothing, **kind_of(support))
    assert all(term.shape == (0,) for term in terms)
    assert not gradient(terms.log_probs + terms.divergence, student).any()


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_size_of_a_chunk_does_not_change_a_bit(support, dtype):
    student, teacher = random_logits(13, 200, dtype=dtype)
    labels = torch.arange(13)
    results = []
    for chunk in (1, 2, 5, 13, 100, None):
        leaf = student.clone().requires_grad_()
        terms = token_terms(
            leaf, labels, TeacherLogits(teacher), chunk_tokens=chunk, **kind_of(support)
        )
        results.append((*terms, gradient(terms.log_probs + terms.divergence, leaf)))
    for other in results[1:]:
        for value, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(value, expected, equal_nan=True, atol=0, rtol=0)


def test_half_precision_only_rounds_the_gradient():
    student, teacher = random_logits(9, 300, dtype=torch.bfloat16)
    exact = student.double().requires_grad_()
    student.requires_grad_()
    for support in SUPPORTS:
        value = divergence(student, teacher, **kind_of(support))
        expected = divergence(exact, teacher.double(), **kind_of(support))
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-6)
        grad = gradient(value, student)
        assert grad.dtype == torch.bfloat16
        torch.testing.assert_close(grad.double(), gradient(expected, exact), atol=1e-6, rtol=2**-8)


def test_teacher_and_student_may_differ_in_dtype():
    student, teacher = random_logits(5, 60)
    for support in SUPPORTS:
        value = divergence(student.float(), teacher, **kind_of(support))
        assert value.dtype == torch.float32
        expected = divergence(student.float(), teacher.float(), **kind_of(support))
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)


# --- tokens of probability zero -----------------------------------------------------------------

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


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("served", [False, True])
def test_next_to_nothing_is_kept_for_the_backward_pass(support, served):
    tokens, vocabulary, top_k = 64, 32768, 64
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(tokens, vocabulary, generator=generator).bfloat16().requires_grad_()
    labels, teacher_logits = torch.zeros(tokens, dtype=torch.int64), logits.detach() * 1.5
    log_probs, ids = teacher_logits.float().log_softmax(-1).topk(top_k, dim=-1)
    given = {logits, labels, teacher_logits, log_probs, ids}
    given = {tensor.untyped_storage().data_ptr() for tensor in given}
    kind = kind_of("teacher" if served else support, top_k=top_k)
    teacher = TeacherTopK(ids, log_probs) if served else TeacherLogits(teacher_logits)
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        terms = token_terms(logits, labels, teacher, **kind)
    for value in list(vars(terms.divergence.grad_fn).values()):
        for item in [value, *getattr(value, "__dict__", {}).values()]:
            if isinstance(item, torch.Tensor):
                note(item)
    extra = sum(size for pointer, size in kept.items() if pointer not in given)
    assert given & set(kept)  # the logits, by reference
    assert extra <= 0.02 * logits.nbytes
    # K ids and K numbers of four bytes each, and a few numbers per token.
    assert extra <= tokens * (8 * top_k * (kind["support"] != "full") + 8 * 8)


def test_logits_overwritten_before_the_backward_pass_are_noticed():
    leaf = random_logits(3, 40)[0].requires_grad_()
    logits = leaf * 1
    value = divergence(logits, random_logits(3, 40)[1], alpha=0.5, top_k=4)
    logits.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_a_second_derivative_is_refused():
    student, teacher = random_logits(3, 40)
    student.requires_grad_()
    value = divergence(student, teacher, alpha=0.5, top_k=4).sum()
    grad = torch.autograd.grad(value, student, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad.sum().backward()


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
        ({"alpha": 1.1}, r"alpha must be in \[0, 1\], got 1.1"),
        ({"alpha": math.nan}, r"alpha must be in \[0, 1\], got nan"),
        ({"alpha": True}, r"alpha must be in \[0, 1\], got True"),
        ({"support": "both"}, "support must be one of student, teacher, full, got 'both'"),
        ({"tail": 1}, "tail must be True or False, got 1"),
        ({"top_k": None}, "support='student' needs top_k"),
        ({"top_k": None, "support": "teacher"}, "support='teacher' needs top_k"),
        ({"top_k": 0}, "top_k must be a whole number >= 1, got 0"),
        ({"top_k": 2.0}, "top_k must be a whole number >= 1, got 2.0"),
        ({"top_k": True}, "top_k must be a whole number >= 1, got True"),
        ({"top_k": 6}, "top_k must be at most the vocabulary's 5 tokens, got 6"),
        ({"support": "full"}, "top_k has no meaning with support='full', got 2"),
    ],
)
def test_a_setting_that_is_none_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        divergence(STUDENT, TEACHER, **{"alpha": 0.5, "top_k": 2, **change})


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (STUDENT, TEACHER[:2], r"same shape .* got \(3, 5\) and \(2, 5\)"),
        (STUDENT, TEACHER[:, :4], r"got \(3, 5\) and \(3, 4\)"),
        (torch.tensor(1.0), torch.tensor(1.0), r"\(..., vocabulary\), got \(\) and \(\)"),
        (torch.zeros(3, 0), torch.zeros(3, 0), "the last axis of student_logits, is empty"),
        (torch.ones(3, 5, dtype=torch.int64), TEACHER, "student_logits must be a floating-point"),
        (STUDENT, torch.ones(3, 5, dtype=torch.int64), "teacher.logits must be a floating-point"),
        (STUDENT, TEACHER.to("meta"), "teacher.logits is on meta, the logits on cpu"),
    ],
)
def test_logits_that_do_not_fit_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        divergence(student, teacher, alpha=0.5, top_k=2)


IDS, LOG_PROBS = torch.tensor([[0, 1]] * 3), torch.full((3, 2), -1.0)
SERVED, ASKED = TeacherTopK(IDS, LOG_PROBS), TeacherOnStudentTopK(IDS, LOG_PROBS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support": "student", "top_k": 2}, "support='student' needs the teacher's logits"),
        ({"support": "full"}, "support='full' needs the teacher's logits"),
        ({"top_k": 3}, "top_k is 3, but the teacher gives 2 tokens"),
        ({"rows": torch.tensor([0, 2, 1])}, "rows must be strictly increasing and below 3"),
        ({"rows": torch.tensor([0, 1, 1])}, "rows must be strictly increasing and below 3"),
        ({"rows": torch.tensor([0, 1, 3])}, "rows must be strictly increasing and below 3"),
        ({"rows": torch.tensor([-1, 0, 1])}, "rows must be strictly increasing and below 3"),
        ({"rows": torch.tensor([True] * 3)}, "rows must be int32 or int64, got torch.bool"),
        ({"rows": torch.tensor([0, 1])}, r"teacher.log_probs must have the shape \(2, 2\)"),
        ({"labels": torch.tensor([0, 1])}, r"labels must have the shape \(3,\), got \(2,\)"),
        ({"labels": torch.tensor([0, 1, 5])}, r"labels must be in \[0, 5\)"),
        ({"labels": torch.tensor([0, 1, -100])}, r"labels must be in \[0, 5\)"),
        ({"labels": torch.zeros(3)}, "labels must be int32 or int64, got torch.float32"),
        ({"labels": torch.zeros(3).int()}, "labels must be int64, got torch.int32"),
        ({"chunk_tokens": 0}, "chunk_tokens must be a whole number >= 1, got 0"),
        ({"chunk_tokens": 1.5}, "chunk_tokens must be a whole number >= 1, got 1.5"),
        ({"teacher": TeacherTopK(IDS + 4, LOG_PROBS)}, r"teacher.ids must be in \[0, 5\)"),
        ({"teacher": TeacherTopK(IDS - 1, LOG_PROBS)}, r"teacher.ids must be in \[0, 5\)"),
        ({"teacher": TeacherTopK(IDS * 0, LOG_PROBS)}, "distinct within a token"),
        ({"teacher": TeacherTopK(IDS[:, :1], LOG_PROBS)}, r"teacher.ids must have the shape"),
        ({"teacher": TeacherTopK(IDS.float(), LOG_PROBS)}, "teacher.ids must be int32 or int64"),
        ({"teacher": TeacherTopK(IDS, IDS)}, "teacher.log_probs must be a floating-point"),
        ({"teacher": TEACHER}, "teacher must be TeacherLogits, TeacherTopK or TeacherOnStudentTop"),
        ({"teacher": ASKED}, "TeacherOnStudentTopK knows only the student's most likely tokens"),
        ({"student_logits": STUDENT[0]}, "student_logits must be a floating-point matrix"),
    ],
)
def test_a_call_of_the_kernel_that_does_not_fit_is_refused(change, message):
    call = {
        "student_logits": STUDENT,
        "labels": torch.tensor([0, 1, 2]),
        "teacher": SERVED,
        "alpha": 0.0,
        "support": "teacher",
        "tail": True,
    }
    if not isinstance(change.get("teacher", SERVED), TeacherTopK):
        call["top_k"] = 2
    with pytest.raises(ValueError, match=message):
        token_terms(**{**call, **change})


def test_a_shard_is_named_by_its_group_and_first_id():
    shard = VocabShard(group=None, start=5)
    assert (shard.group, shard.start) == (None, 5)


def test_the_statistics_carry_no_gradient():
    student, teacher = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    terms = token_terms(
        student, None, TeacherLogits(teacher), alpha=0.5, top_k=2, support="student", tail=True
    )
    assert terms.divergence.requires_grad
    for statistic in (terms.student_tail, terms.teacher_tail, terms.overlap):
        assert not statistic.requires_grad


def test_without_labels_there_are_no_log_probabilities_of_them():
    how = {"alpha": 0.5, "top_k": 2, "support": "student", "tail": True}
    assert token_terms(STUDENT, None, TeacherLogits(TEACHER), **how).log_probs is None
    labels = torch.zeros(len(STUDENT), dtype=torch.int64)
    assert token_terms(STUDENT, labels, TeacherLogits(TEACHER), **how).log_probs is not None


def test_the_shard_is_asked_whether_its_size_goes_with_its_start():
    class Shard:
        def require_size(self, size):
            raise ValueError(f"no shard of {size}")

    how = {"alpha": 0.5, "top_k": 2, "support": "student", "tail": True, "vocab": Shard()}
    with pytest.raises(ValueError, match=f"no shard of {STUDENT.shape[-1]}"):
        token_terms(STUDENT, None, TeacherLogits(TEACHER), **how)
