import math

import pytest
import torch

from verl_ext.losses.importance import clipped_importance_ratio

OLD = torch.tensor([[-1.0, -1.0, -1.0], [-3.0, -1.0, -2.0]], dtype=torch.float64)


def test_a_weight_is_the_ratio_of_probabilities_and_only_large_ones_are_clipped():
    # Ratios 1, 1.5, 3 (clipped); 1/4, 2, 1e-4.
    ratios = torch.tensor([[1, 1.5, 3], [0.25, 2, 1e-4]], dtype=torch.float64)
    expected = torch.tensor([[1, 1.5, 2], [0.25, 2, 1e-4]], dtype=torch.float64)
    weights = clipped_importance_ratio(OLD + ratios.log(), OLD)
    torch.testing.assert_close(weights, expected)


def test_the_clip_can_be_another():
    weights = clipped_importance_ratio(OLD + math.log(3), OLD, clip=2.5)
    torch.testing.assert_close(weights, torch.full_like(OLD, 2.5))
    torch.testing.assert_close(
        clipped_importance_ratio(OLD + math.log(3), OLD, clip=4.0), torch.full_like(OLD, 3)
    )


def test_where_the_student_has_not_moved_every_weight_is_exactly_one():
    assert torch.equal(clipped_importance_ratio(OLD, OLD, clip=1.0), torch.ones_like(OLD))


def test_a_difference_counts_as_at_most_twenty_nats():
    old = torch.tensor([0.0, -100, -math.inf, 0], dtype=torch.float64)
    new = torch.tensor([-100.0, 0, 0, -math.inf], dtype=torch.float64)
    weights = clipped_importance_ratio(new, old, clip=1e9)
    expected = [math.exp(-20), math.exp(20), math.exp(20), math.exp(-20)]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


def test_what_neither_policy_samples_has_no_weight():
    impossible = torch.tensor([-math.inf, math.nan])
    assert clipped_importance_ratio(impossible, impossible).isnan().all()


def test_no_gradient_flows_through_a_weight():
    student = OLD.clone().requires_grad_()
    weights = clipped_importance_ratio(student, OLD)
    assert not weights.requires_grad
    (weights * student * 3).sum().backward()
    assert torch.equal(student.grad, torch.full_like(OLD, 3))  # of the weight itself: none


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (0,)])
def test_any_shape_and_the_dtype_of_the_student(dtype, shape):
    log_probs = torch.zeros(shape, dtype=dtype)
    weights = clipped_importance_ratio(log_probs, log_probs)
    assert weights.dtype == dtype
    assert torch.equal(weights, torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize("clip", [0.99, 0, -1, math.inf, math.nan])
def test_a_clip_that_touches_tokens_on_policy_or_none_is_refused(clip):
    with pytest.raises(ValueError, match="clip must be finite and >= 1"):
        clipped_importance_ratio(OLD, OLD, clip=clip)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"old_log_probs \(1, 3\)"):
        clipped_importance_ratio(OLD, OLD[:1])
