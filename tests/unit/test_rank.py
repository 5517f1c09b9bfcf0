import math
import statistics

import numpy as np
import pytest
import torch

from verl_ext.advantage_fns.rank import rank


def advantages_of(rewards, groups, **settings):
    """One advantage per response of two tokens."""
    rewards = torch.as_tensor(rewards, dtype=torch.float64)
    advantages, returns = rank(rewards, torch.ones(len(rewards), 2), groups, **settings)
    assert torch.equal(advantages, returns)
    assert torch.equal(advantages[:, 0], advantages[:, 1])
    return advantages[:, 0].tolist()


def test_a_reward_is_standardised_in_its_group():
    # 1, 2/3, 1/3, 0: mean 1/2, squares 2 · (1/4 + 1/36) = 5/9, over 3.
    std = math.sqrt(5 / 27) + 1e-6
    expected = [0.5 / std, -0.5 / std, 1 / 6 / std, -1 / 6 / std]
    assert advantages_of([1, 0, 2 / 3, 1 / 3], "gggg") == pytest.approx(expected, rel=1e-12)
    assert [round(value, 5) for value in expected] == [1.16189, -1.16189, 0.3873, -0.3873]


def test_groups_do_not_see_each_other_and_need_not_stand_together():
    rewards, groups = [1, 0, 0.5, 0.25, 0.75, 1], ["a", "b", "a", "b", "a", "b"]
    actual = advantages_of(rewards, groups)
    for group in "ab":
        own = [row for row in range(6) if groups[row] == group]
        values = [rewards[row] for row in own]
        mean, std = statistics.fmean(values), statistics.stdev(values)
        expected = [(value - mean) / (std + 1e-6) for value in values]
        assert [actual[row] for row in own] == pytest.approx(expected, rel=1e-12)


def test_eps_is_added_outside_the_root():
    expected = 0.5 / (math.sqrt(0.5) + 0.25)
    assert advantages_of([1, 0], "gg", eps=0.25) == pytest.approx([expected, -expected], rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6])
def test_equal_rewards_and_a_group_of_one_give_exactly_0(value):
    assert advantages_of([value, value, value, 0.7], "aaab") == [0.0] * 4


def test_masked_tokens_get_0_and_others_the_same():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]])
    advantages, _ = rank(torch.tensor([1.0, 0.0]), mask, ["g", "g"])
    value = 0.5 / (math.sqrt(0.5) + 1e-6)
    expected = torch.tensor([[value, value, 0, 0], [-value, 0, -value, 0]])
    torch.testing.assert_close(advantages, expected)


def test_a_row_without_sampled_tokens_counts_nowhere():
    mask = torch.tensor([[1, 1], [1, 0], [0, 0], [0, 0]])
    advantages, _ = rank(torch.tensor([1.0, 0.0, 9.0, math.nan]), mask, list("gggg"))
    alone, _ = rank(torch.tensor([1.0, 0.0]), mask[:2], list("gg"))
    assert torch.equal(advantages[:2], alone)
    assert not advantages[2:].any()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_mask_may_be_bool_int_or_float(dtype):
    mask = torch.tensor([[1, 1], [1, 0]]).to(dtype)
    advantages, _ = rank(torch.tensor([1.0, 0.0]), mask, [3, 3])
    assert advantages.dtype == torch.float32
    assert advantages[0, 0] == -advantages[1, 0] > 0


@pytest.mark.parametrize(
    "labels", [[3, 3, 5, 5], np.array([3, 3, 5, 5]), torch.tensor([3, 3, 5, 5]), ["a", "a", 1, 1]]
)
def test_labels_may_be_any_hashables(labels):
    actual = advantages_of([1, 0, 0.5, 0.5], labels)
    assert actual == advantages_of([1, 0, 0.5, 0.5], "aabb")


def test_no_graph_is_kept_and_no_input_changed():
    rewards = torch.tensor([1.0, 0.0], requires_grad=True)
    mask = torch.ones(2, 3)
    advantages, _ = rank(rewards, mask, "gg")
    assert not advantages.requires_grad
    assert rewards.tolist() == [1.0, 0.0]
    assert mask.all()


def test_an_empty_batch_has_no_advantages():
    advantages, _ = rank(torch.zeros(0), torch.ones(0, 3), [])
    assert advantages.shape == (0, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="rewards must be finite, got row 1"):
        rank(torch.tensor([1.0, bad]), torch.ones(2, 2), "gg")


@pytest.mark.parametrize("eps", [0.0, -1e-6, math.nan, math.inf])
def test_an_eps_that_is_not_positive_and_finite_is_refused(eps):
    with pytest.raises(ValueError, match="eps must be finite and > 0"):
        rank(torch.ones(2), torch.ones(2, 2), "gg", eps=eps)


def test_rewards_of_another_shape_are_refused():
    for rewards in (torch.ones(3), torch.ones(2, 2), torch.ones(2, 1)):
        with pytest.raises(ValueError, match=r"one per row of response_mask \(2, 2\)"):
            rank(rewards, torch.ones(2, 2), "gg")


def test_labels_that_are_not_one_per_row_or_nan_are_refused():
    with pytest.raises(ValueError, match="group_ids must have one label per row"):
        rank(torch.ones(2), torch.ones(2, 2), "g")
    with pytest.raises(ValueError, match="group_ids must not be NaN"):
        rank(torch.ones(2), torch.ones(2, 2), ["g", math.nan])
