import math

import pytest
import torch

from verl_ext.losses.trust_region import trust_region_logits

INF = math.inf
REF = torch.tensor([[0.0, 2, 4], [-1, 1, 8]], dtype=torch.float64)
STUDENT = torch.tensor([[4.0, 2, 0], [3, 1, -8]], dtype=torch.float64)


def test_logits_lie_between_by_the_rate():
    expected = torch.tensor([[1.0, 2, 3], [0, 1, 4]], dtype=torch.float64)
    assert torch.equal(trust_region_logits(REF, STUDENT, 0.25), expected)


def test_the_teacher_is_the_geometric_mean_of_the_two_policies():
    rate = 0.3
    p_ref, p = REF.softmax(-1), STUDENT.softmax(-1)
    product = p_ref ** (1 - rate) * p**rate
    expected = product / product.sum(-1, keepdim=True)
    torch.testing.assert_close(trust_region_logits(REF, STUDENT, rate).softmax(-1), expected)


@pytest.mark.parametrize("other", [0.0, INF, -INF, math.nan])
def test_at_the_ends_it_is_one_side_whatever_the_other_holds(other):
    filled = torch.full_like(REF, other)
    assert torch.equal(trust_region_logits(REF, filled, 0), REF)
    assert torch.equal(trust_region_logits(filled, STUDENT, 1), STUDENT)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])  # torch interpolates differently above a half
def test_a_token_that_either_side_rules_out_is_ruled_out(rate):
    ref = torch.tensor([0.0, -INF, 1, -INF, 2])
    student = torch.tensor([0.0, 1, -INF, -INF, 2])
    teacher = trust_region_logits(ref, student, rate)
    torch.testing.assert_close(teacher, torch.tensor([0.0, -INF, -INF, -INF, 2]))
    assert teacher.softmax(-1).isfinite().all()


@pytest.mark.parametrize("broken", [INF, math.nan])
@pytest.mark.parametrize("side", [0, 1])
def test_a_broken_model_shows(broken, side):
    logits = [torch.zeros(3), torch.zeros(3)]
    logits[side][1] = broken
    assert trust_region_logits(*logits, 0.5).softmax(-1).isnan().any()


def test_equal_logits_stay_as_they_are_bit_for_bit():
    logits = torch.randn(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(trust_region_logits(logits, logits, 0.05), logits)


@pytest.mark.parametrize("rate", [0, 0.05, 1])
def test_no_gradient_flows_and_no_input_is_changed(rate):
    ref, student = REF.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    assert not trust_region_logits(ref, student, rate).requires_grad
    assert torch.equal(ref, REF)
    assert torch.equal(student, STUDENT)


def test_a_shard_of_the_vocabulary_is_as_good_as_all_of_it():
    shards = [trust_region_logits(REF[:, p], STUDENT[:, p], 0.05) for p in ([0], [1, 2])]
    assert torch.equal(torch.cat(shards, -1), trust_region_logits(REF, STUDENT, 0.05))


@pytest.mark.parametrize("rate", [-0.01, 1.01, math.nan])
def test_a_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\]"):
        trust_region_logits(REF, STUDENT, rate)


def test_another_shape_or_dtype_is_refused():
    with pytest.raises(ValueError, match=r"student_logits \(2, 1\)"):
        trust_region_logits(REF, STUDENT[:, :1], 0.5)
    with pytest.raises(ValueError, match=r"ref_logits are torch.float64, .* cast one"):
        trust_region_logits(REF, STUDENT.float(), 0.5)
