import math

import pytest
import torch

from verl_ext.advantage_fns.w_reinforce import w_reinforce

# Three responses of 3, 2 and 4 tokens: right, wrong, right.
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
REWARDS = torch.tensor([[0, 0, 1.0, 0], [0, 0, 0, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("positive", "negative", "by_row"),
    [
        pytest.param(1.0, 0.0, [1.0, 0.0, 1.0], id="psr"),
        pytest.param(0.0, 1.0, [0.0, -1.0, 0.0], id="nsr"),
        pytest.param(0.1, 1.0, [0.1, -1.0, 0.1], id="w_reinforce"),
        pytest.param(1.0, 1.0, [1.0, -1.0, 1.0], id="reinforce"),
    ],
)
def test_each_method_of_the_paper_weighs_right_and_wrong(positive, negative, by_row):
    advantages, _ = w_reinforce(REWARDS, MASK, positive_weight=positive, negative_weight=negative)
    assert torch.equal(advantages, torch.tensor(by_row).unsqueeze(-1) * MASK)


def test_the_defaults_are_the_papers_recommendation():
    advantages, _ = w_reinforce(REWARDS, MASK)
    assert advantages[0, 0] == torch.tensor(0.1)
    assert advantages[1, 0] == -1


def test_returns_equal_the_advantages():
    advantages, returns = w_reinforce(REWARDS, MASK)
    assert torch.equal(advantages, returns)


def test_a_hole_in_the_middle_gets_nothing():
    # A tool's answer between two sampled parts.
    mask = torch.tensor([[1, 0, 0, 1]])
    advantages, _ = w_reinforce(torch.tensor([[0.0, 0, 0, 1]]), mask, positive_weight=0.25)
    assert torch.equal(advantages, torch.tensor([[0.25, 0, 0, 0.25]]))


def test_rewards_spread_over_tokens_are_summed_to_the_outcome():
    rewards = torch.tensor([[0.25, 0.75, 0.0, 0.0]])
    advantages, _ = w_reinforce(rewards, MASK[:1], positive_weight=0.5)
    assert torch.equal(advantages, torch.tensor([[0.5, 0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("on_padding", [1.0, -1.0, math.nan, math.inf])
def test_a_row_without_sampled_tokens_gets_zero_whatever_stands_there(on_padding):
    rewards = torch.tensor([[0.0, 1.0], [on_padding, 0.0]])
    mask = torch.tensor([[1, 1], [0, 0]])
    advantages, _ = w_reinforce(rewards, mask, positive_weight=0.5)
    assert torch.equal(advantages, torch.tensor([[0.5, 0.5], [0.0, 0.0]]))


def test_a_batch_of_padding_rows_alone_gets_zeros():
    advantages, returns = w_reinforce(torch.zeros(2, 3), torch.zeros(2, 3))
    assert not advantages.any()
    assert not returns.any()


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_kind_of_mask_and_the_dtype_of_the_rewards(mask_dtype, dtype):
    advantages, _ = w_reinforce(REWARDS.to(dtype), MASK.to(mask_dtype))
    assert advantages.dtype == dtype
    assert torch.equal(advantages[:, 0], torch.tensor([0.1, -1.0, 0.1], dtype=dtype))


def test_a_weight_is_exact_in_float64():
    advantages, _ = w_reinforce(REWARDS.double(), MASK, positive_weight=0.1)
    assert advantages[0, 0].item() == 0.1  # 0.10000000149 had it passed through float32


@pytest.mark.parametrize(
    ("positive", "negative"), [(1.0, 0.0), (1.0, -0.0), (0.0, 1.0), (-0.0, 1.0)]
)
def test_no_zero_carries_a_minus_sign(positive, negative):
    advantages, _ = w_reinforce(REWARDS, MASK, positive_weight=positive, negative_weight=negative)
    assert not torch.signbit(advantages[advantages == 0]).any()


def test_no_graph_is_kept():
    advantages, _ = w_reinforce(REWARDS.clone().requires_grad_(), MASK)
    assert not advantages.requires_grad


@pytest.mark.parametrize("outcome", [-1.0, 0.5, 2.0, 0.999, math.nan, math.inf, -math.inf])
def test_other_outcomes_are_refused_and_shown(outcome):
    rewards = torch.tensor([[0.0, 1.0], [0.0, outcome]])
    shown = str(torch.tensor(outcome).item())
    with pytest.raises(ValueError, match="outcomes must be 0 or 1") as error:
        w_reinforce(rewards, torch.ones(2, 2))
    assert f"[{shown}]" in str(error.value)


def test_the_refusal_names_the_switch_of_the_string_task():
    with pytest.raises(ValueError, match=r"reward_kwargs\.binary=true"):
        w_reinforce(torch.tensor([[-1.0]]), torch.ones(1, 1))


@pytest.mark.parametrize("name", ["positive_weight", "negative_weight"])
@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, -math.inf])
def test_a_weight_that_is_negative_or_not_finite_is_refused(name, weight):
    with pytest.raises(ValueError, match=f"{name} must be finite and >= 0, got {weight}"):
        w_reinforce(REWARDS, MASK, **{name: weight})


def test_two_weights_of_zero_are_refused():
    with pytest.raises(ValueError, match="both 0"):
        w_reinforce(REWARDS, MASK, positive_weight=0.0, negative_weight=0.0)


def _logit_step(positive, negative, reward):
    """Minus the gradient of the policy-gradient loss A·(−log p(token 0)) over three logits."""
    probabilities = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    logits = probabilities.log().requires_grad_()
    advantages, _ = w_reinforce(
        torch.tensor([[reward]], dtype=torch.float64),
        torch.ones(1, 1),
        positive_weight=positive,
        negative_weight=negative,
    )
    (-advantages[0, 0] * logits.log_softmax(-1)[0]).backward()
    return -logits.grad


def test_nsr_hands_a_wrong_tokens_probability_to_the_others_in_proportion():
    # p = (.6, .3, .1), token 0 sampled and wrong: −(1 − .6), +.3, +.1.
    step = _logit_step(0.0, 1.0, reward=0.0)
    torch.testing.assert_close(step, torch.tensor([-0.4, 0.3, 0.1], dtype=torch.float64))


def test_psr_takes_a_right_tokens_gain_from_the_others_in_proportion():
    step = _logit_step(1.0, 0.0, reward=1.0)
    torch.testing.assert_close(step, torch.tensor([0.4, -0.3, -0.1], dtype=torch.float64))
