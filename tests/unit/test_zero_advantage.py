import pytest
import torch

from verl_ext.advantage_fns.w_reinforce import w_reinforce
from verl_ext.masks.zero_advantage import keep_mask

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
REWARDS = torch.tensor([[0, 0, 1.0, 0], [0, 0, 0, 0], [0, 0, 0, 1.0]])
LOSSES = torch.tensor([[1, 2, 4, 99], [8, 16, 99, 99], [32, 64, 128, 256.0]])


def token_mean(values, mask):
    return (values * mask).sum() / mask.sum()


def weighted_loss(advantages, mask):
    """−A·x summed over tokens and divided by their number; x stands for the log-probabilities."""
    return token_mean(-advantages * LOSSES[: len(mask)], mask)


def test_rows_of_zero_advantage_are_left_out_and_the_others_kept_whole():
    advantages = torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0], [-1, -1, -1, -1]])
    expected = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(keep_mask(advantages, MASK), expected)


@pytest.mark.parametrize(
    ("positive", "negative", "rows"),
    [pytest.param(1.0, 0.0, [0, 2], id="psr"), pytest.param(0.0, 1.0, [1], id="nsr")],
)
def test_the_token_mean_equals_that_of_the_batch_without_the_rows(positive, negative, rows):
    advantages, _ = w_reinforce(REWARDS, MASK, positive_weight=positive, negative_weight=negative)
    kept = keep_mask(advantages, MASK)
    shortened = token_mean((-advantages * LOSSES)[rows], MASK[rows])
    assert torch.equal(weighted_loss(advantages, kept), shortened)


def test_without_the_mask_the_scale_depends_on_the_accuracy():
    # 3 + 2 + 4 tokens; PSR keeps the right rows' 7, NSR the wrong row's 2. Every −A·x sums to ∓x.
    psr, _ = w_reinforce(REWARDS, MASK, positive_weight=1.0, negative_weight=0.0)
    nsr, _ = w_reinforce(REWARDS, MASK, positive_weight=0.0, negative_weight=1.0)
    right, wrong = 1 + 2 + 4 + 32 + 64 + 128 + 256, 8 + 16
    assert weighted_loss(psr, MASK) == torch.tensor(-right / 9)
    assert weighted_loss(psr, keep_mask(psr, MASK)) == torch.tensor(-right / 7)
    assert weighted_loss(nsr, MASK) == torch.tensor(wrong / 9)
    assert weighted_loss(nsr, keep_mask(nsr, MASK)) == torch.tensor(wrong / 2)


@pytest.mark.parametrize("correct", [1, 2, 3])
def test_with_the_mask_a_unit_loss_is_one_at_any_accuracy(correct):
    rewards = torch.zeros(4, 1)
    rewards[:correct] = 1
    mask = torch.ones(4, 1)
    advantages, _ = w_reinforce(rewards, mask, positive_weight=1.0, negative_weight=0.0)
    assert token_mean(advantages, keep_mask(advantages, mask)) == 1
    assert token_mean(advantages, mask) == correct / 4


def test_nothing_is_left_where_nothing_teaches():
    assert not keep_mask(torch.zeros(3, 4), MASK).any()


def test_minus_zero_is_zero():
    assert not keep_mask(torch.full((3, 4), -0.0), MASK).any()


@pytest.mark.parametrize("on_padding", [1.0, torch.nan, torch.inf])
def test_what_stands_on_padding_keeps_no_row(on_padding):
    advantages = torch.where(MASK.bool(), 0.0, on_padding)
    assert not keep_mask(advantages, MASK).any()


def test_a_nan_advantage_stays_in_the_loss_where_it_shows():
    advantages = torch.zeros(3, 4)
    advantages[1, 0] = torch.nan
    assert keep_mask(advantages, MASK).any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_any_kind_of_mask_gives_bool(dtype):
    kept = keep_mask(torch.ones(3, 4), MASK.to(dtype))
    assert kept.dtype == torch.bool
    assert torch.equal(kept, MASK.bool())


def test_inputs_are_left_alone():
    advantages, mask = torch.eye(3, 4), MASK.clone()
    keep_mask(advantages, mask)
    assert torch.equal(advantages, torch.eye(3, 4))
    assert torch.equal(mask, MASK)
