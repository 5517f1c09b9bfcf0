"""Which words are the support, what lies outside of it, and how far the two supports overlap."""

import math

import pytest
import torch
from unit.divergence_cases import STUDENT, TEACHER, random_logits

from verl_ext.losses.divergence import TeacherLogits, TeacherTopK, divergence, token_terms
from verl_ext.losses.softmax import _peaks
from verl_ext.losses.vocabulary import BLOCK, top_ids


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


def test_the_statistics_carry_no_gradient():
    student, teacher = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    terms = token_terms(
        student, None, TeacherLogits(teacher), alpha=0.5, top_k=2, support="student", tail=True
    )
    assert terms.divergence.requires_grad
    for statistic in (terms.student_tail, terms.teacher_tail, terms.overlap):
        assert not statistic.requires_grad
