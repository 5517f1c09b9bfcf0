"""One pass over the logits: labels, rows, chunks, types, and what is kept for the backward pass."""

import math

import pytest
import torch
from unit.divergence_cases import STUDENT, SUPPORTS, TEACHER, gradient, kind_of, random_logits

from verl_ext.losses.divergence import TeacherLogits, TeacherTopK, divergence, token_terms


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


def test_without_labels_there_are_no_log_probabilities_of_them():
    how = {"alpha": 0.5, "top_k": 2, "support": "student", "tail": True}
    assert token_terms(STUDENT, None, TeacherLogits(TEACHER), **how).log_probs is None
    labels = torch.zeros(len(STUDENT), dtype=torch.int64)
    assert token_terms(STUDENT, labels, TeacherLogits(TEACHER), **how).log_probs is not None


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
