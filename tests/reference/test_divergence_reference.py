"""The kernel against full enumeration, and against what trl computes."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.losses.divergence import (
    TeacherLogits,
    TeacherOnStudentTopK,
    TeacherTopK,
    divergence,
    token_terms,
)
from verl_ext.losses.support import log_probs_at, most_likely_tokens

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location(
    "divergence_by_enumeration", HERE / "divergence_by_enumeration.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

ALPHAS = (0.0, 0.25, 0.5, 1.0)


def enumerated(student, teacher, **kind):
    pairs = [
        reference.divergence(*rows, **kind)
        for rows in zip(student.double().tolist(), teacher.double().tolist(), strict=True)
    ]
    values, gradients = zip(*pairs, strict=True)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(gradients, dtype=torch.float64)


def ours(student, teacher, weights, **kind):
    student = student.clone().requires_grad_()
    terms = token_terms(student, None, TeacherLogits(teacher), **kind)
    (terms.divergence * weights).sum().backward()
    return terms.divergence.detach(), student.grad


@st.composite
def cases(draw):
    """Logits of a few tokens, equal ones among them, and every way to compare them."""
    tokens, vocabulary = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    support = draw(st.sampled_from(["student", "teacher", "full"]))
    kind = {
        "alpha": draw(st.sampled_from(ALPHAS)),
        "support": support,
        "top_k": None if support == "full" else draw(st.integers(1, vocabulary)),
        "tail": draw(st.booleans()),
    }
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 3.0]))
    student, teacher = scale * torch.randn(
        2, tokens, vocabulary, dtype=torch.float64, generator=generator
    )
    if draw(st.booleans()):
        student, teacher = student.round(), teacher.round()
    rows = sorted(draw(st.sets(st.integers(0, tokens - 1), min_size=1)))
    return student, teacher, kind, torch.tensor(rows), draw(st.integers(1, 6))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_values_and_gradients_are_those_of_full_enumeration(case):
    student, teacher, kind, rows, chunk = case
    weights = torch.linspace(-1, 2, len(rows), dtype=torch.float64)
    actual = ours(student, teacher, weights, rows=rows, chunk_tokens=chunk, **kind)
    value, gradient = enumerated(student[rows], teacher[rows], **kind)
    expected = torch.zeros_like(student)
    expected[rows] = weights.unsqueeze(-1) * gradient
    torch.testing.assert_close(actual[0], value, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(actual[1], expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("support", ["student", "teacher", "full"])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize(
    ("dtype", "value_error", "gradient_error"),
    # bfloat16 rounds the gradient to 8 bits; the value is that of the rounded logits.
    [(torch.float64, 1e-10, 1e-10), (torch.float32, 1e-6, 1e-6), (torch.bfloat16, 1e-6, 1e-2)],
)
def test_precision_in_each_dtype(alpha, support, tail, dtype, value_error, gradient_error):
    generator = torch.Generator().manual_seed(3)
    student, teacher = (2 * torch.randn(2, 12, 40, generator=generator)).to(dtype)
    kind = {"alpha": alpha, "support": support, "tail": tail}
    kind["top_k"] = None if support == "full" else 8
    actual = ours(student, teacher, torch.ones(12, dtype=torch.float64), **kind)
    expected = enumerated(student, teacher, **kind)
    assert actual[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert actual[1].dtype == dtype
    for what, bound, by_enumeration in zip(
        actual, (value_error, gradient_error), expected, strict=True
    ):
        torch.testing.assert_close(what.double(), by_enumeration, atol=bound, rtol=bound)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("tail", [True, False])
def test_a_served_teacher_gives_what_its_logits_give(alpha, tail):
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 6, 11, dtype=torch.float64, generator=generator)
    log_probs, ids = teacher.log_softmax(-1).topk(4, dim=-1)
    student.requires_grad_()
    served = token_terms(
        student, None, TeacherTopK(ids, log_probs), alpha=alpha, support="teacher", tail=tail
    )
    served.divergence.sum().backward()
    value, gradient = enumerated(
        student.detach(), teacher, alpha=alpha, support="teacher", top_k=4, tail=tail
    )
    torch.testing.assert_close(served.divergence.detach(), value, atol=1e-12, rtol=0)
    torch.testing.assert_close(student.grad, gradient, atol=1e-12, rtol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("tail", [True, False])
def test_a_teacher_asked_about_the_students_tokens_gives_what_its_logits_give(alpha, tail):
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 6, 11, dtype=torch.float64, generator=generator)
    ids = most_likely_tokens(student, 4)
    asked = TeacherOnStudentTopK(ids, log_probs_at(teacher, ids))
    student.requires_grad_()
    found = token_terms(student, None, asked, alpha=alpha, support="student", tail=tail)
    found.divergence.sum().backward()
    value, gradient = enumerated(
        student.detach(), teacher, alpha=alpha, support="student", top_k=4, tail=tail
    )
    torch.testing.assert_close(found.divergence.detach(), value, atol=1e-12, rtol=0)
    torch.testing.assert_close(student.grad, gradient, atol=1e-12, rtol=0)
    assert found.overlap.tolist() == [1.0] * 6  # the support still is the student's


RECORD = json.loads((HERE / "trl_divergence.json").read_text())


@pytest.mark.parametrize("case", RECORD["cases"], ids=lambda case: case["id"])
def test_agrees_with_trl(case):
    """trl's beta is our α; made by ``make_trl_table.py`` with the version in the record."""
    student = torch.tensor(RECORD["student_logits"], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(RECORD["teacher_logits"], dtype=torch.float64)
    values = divergence(student, teacher, **case["ours"])
    values.sum().backward()
    expected = torch.tensor(case["per_token"], dtype=torch.float64)
    torch.testing.assert_close(values.detach(), expected, atol=1e-6, rtol=0)
    expected = torch.tensor(case["gradient"], dtype=torch.float64)
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=0)
