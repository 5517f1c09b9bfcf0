"""Settings, logits and calls of the kernel that do not fit."""

import math

import pytest
import torch
from unit.divergence_cases import STUDENT, TEACHER

from verl_ext.losses.divergence import (
    TeacherLogits,
    TeacherOnStudentTopK,
    TeacherTopK,
    VocabShard,
    divergence,
    token_terms,
)


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


def test_the_shard_is_asked_whether_its_size_goes_with_its_start():
    class Shard:
        def require_size(self, size):
            raise ValueError(f"no shard of {size}")

    how = {"alpha": 0.5, "top_k": 2, "support": "student", "tail": True, "vocab": Shard()}
    with pytest.raises(ValueError, match=f"no shard of {STUDENT.shape[-1]}"):
        token_terms(STUDENT, None, TeacherLogits(TEACHER), **how)
