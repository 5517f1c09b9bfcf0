"""Which tokens the gate and the thresholds withhold."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.entropies import ENTROPY, MASK

from verl_ext import testing
from verl_ext.advantage_fns.task_norm import task_norm
from verl_ext.masks.entropy import batch_entropy, keep_mask


def test_the_gate_withholds_every_negative_advantage_and_nothing_else():
    advantages = torch.tensor([[0.866], [-0.866], [0.0], [-0.866], [0.866]])
    kept = keep_mask(advantages, torch.ones(5, 1), gate_on=True)
    assert kept.flatten().tolist() == [True, False, True, False, True]
    assert keep_mask(advantages, torch.ones(5, 1), gate_on=False).all()


def test_signs_are_read_token_by_token():
    # As with a teacher's per-token advantages; a tool's answer stands first and counts for nothing.
    advantages = torch.tensor([[-5.0, 1.0, -1.0, -0.0]])
    kept = keep_mask(advantages, torch.tensor([[0, 1, 1, 1]]), gate_on=True)
    assert kept.tolist() == [[True, True, False, True]]


def test_a_token_threshold_withholds_uncertain_tokens_of_negative_rows():
    advantages = torch.tensor([[-1.0] * 4, [1.0] * 4])
    entropy = torch.tensor([[0.125, 0.25, 0.5, 0.75]] * 2)
    kept = keep_mask(
        advantages, torch.ones(2, 4), gate_on=False, entropy=entropy, token_threshold=0.25
    )
    assert kept.tolist() == [[True, True, False, False], [True] * 4]


def test_a_sequence_threshold_withholds_uncertain_negative_rows_whole():
    # Means over sampled tokens: .4, .1, .4; only the first two are negative.
    advantages = torch.tensor([[-1.0] * 4, [-1.0] * 4, [1.0] * 4])
    entropy, mask = torch.cat([ENTROPY, ENTROPY[:1]]), torch.cat([MASK, MASK[:1]])
    kept = keep_mask(advantages, mask, gate_on=False, entropy=entropy, sequence_threshold=0.25)
    assert kept.tolist() == [[False, False, True, True], [True] * 4, [True] * 4]


def test_a_mean_on_the_threshold_is_kept():
    kept = keep_mask(
        -torch.ones(1, 2),
        torch.ones(1, 2),
        gate_on=False,
        entropy=torch.tensor([[0.25, 0.75]]),
        sequence_threshold=0.5,
    )
    assert kept.all()


def test_two_thresholds_withhold_what_either_does():
    entropy = torch.tensor([[0.5, 0.5, 0.75], [0.0, 0.0, 1.0]])
    kept = keep_mask(
        -torch.ones(2, 3),
        torch.ones(2, 3),
        gate_on=False,
        entropy=entropy,
        token_threshold=0.6,
        sequence_threshold=0.5,
    )
    assert kept.tolist() == [[False] * 3, [True, True, False]]


def test_the_gate_withholds_all_where_a_threshold_would_keep_some():
    arguments = {"entropy": torch.tensor([[0.1, 0.9]]), "token_threshold": 0.5}
    kept = keep_mask(-torch.ones(1, 2), torch.ones(1, 2), gate_on=True, **arguments)
    assert not kept.any()


def test_an_empty_row_withholds_nothing():
    mask = torch.tensor([[0, 0], [1, 1]])
    kept = keep_mask(
        -torch.ones(2, 2),
        mask,
        gate_on=True,
        entropy=torch.full((2, 2), 0.5),
        sequence_threshold=0.1,
    )
    assert kept.tolist() == [[True, True], [False, False]]


def test_a_nan_advantage_stays_in_the_loss_where_it_shows():
    assert keep_mask(torch.tensor([[torch.nan]]), torch.ones(1, 1), gate_on=True).all()


@pytest.mark.parametrize("name", ["token_threshold", "sequence_threshold"])
def test_a_threshold_without_entropy_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} need entropy"):
        keep_mask(ENTROPY, MASK, gate_on=False, **{name: 0.5})


@pytest.mark.parametrize("name", ["token_threshold", "sequence_threshold"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_a_threshold_outside_its_range_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"{name} must be a finite number"):
        keep_mask(ENTROPY, MASK, gate_on=False, entropy=ENTROPY, **{name: bad})


@pytest.mark.parametrize("name", ["token_threshold", "sequence_threshold"])
def test_a_nan_entropy_under_a_threshold_is_refused(name):
    # NaN is above nothing: its token would teach, silently.
    entropy = torch.tensor([[0.1], [torch.nan]])
    with pytest.raises(ValueError, match="entropy must be finite, got row 1"):
        keep_mask(-torch.ones(2, 1), torch.ones(2, 1), gate_on=False, entropy=entropy, **{name: 1})


def test_shapes_that_torch_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="shapes must be equal"):
        keep_mask(torch.ones(2, 4), torch.ones(2, 1), gate_on=True)
    with pytest.raises(ValueError, match="shapes must be equal"):
        keep_mask(-ENTROPY, MASK, gate_on=False, entropy=ENTROPY[:1], token_threshold=0.5)
    with pytest.raises(ValueError, match="shapes must be equal"):
        batch_entropy(ENTROPY[:1], MASK)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_any_kind_of_mask_gives_bool(dtype):
    kept = keep_mask(-torch.ones(2, 4), MASK.to(dtype), gate_on=True)
    assert kept.dtype == torch.bool
    assert torch.equal(kept, ~MASK.bool())


def masks_of(batch, *, gate_on):
    """A batch's entropy, and what every setting withholds from task_norm's advantages."""
    advantages = testing.advantages_of(task_norm, batch)
    entropy = batch.token_level_rewards.abs()  # as good as any random number
    sampled = batch.response_mask
    thresholds = {"entropy": entropy, "token_threshold": 0.3, "sequence_threshold": 0.2}
    return (
        batch_entropy(entropy, sampled) if sampled.any() else torch.zeros(()),
        keep_mask(advantages, sampled, gate_on=gate_on),
        keep_mask(advantages, sampled, gate_on=gate_on, **thresholds),
    )


@settings(deadline=None, max_examples=50)
@given(batch=testing.batches(), gate_on=st.booleans(), order=st.randoms())
def test_any_order_of_the_rows_gives_the_same_masks(batch, gate_on, order):
    rows = list(range(len(batch.response_mask)))
    order.shuffle(rows)
    entropy, *kept = masks_of(batch, gate_on=gate_on)
    shuffled_entropy, *shuffled = masks_of(batch.rows(rows), gate_on=gate_on)
    torch.testing.assert_close(shuffled_entropy, entropy)
    # Advantages that rounding alone keeps from 0 may change their sign with the order of a sum.
    rounding = testing.advantages_of(task_norm, batch).abs()[rows] < 1e-6
    for after, before in zip(shuffled, kept, strict=True):
        assert torch.equal(after | rounding, before[rows] | rounding)


@settings(deadline=None, max_examples=50)
@given(batch=testing.batches(), gate_on=st.booleans())
def test_padding_rows_change_no_mask_and_no_entropy(batch, gate_on):
    rows, length = batch.response_mask.shape
    longer = testing.Batch(
        torch.cat([batch.token_level_rewards, batch.token_level_rewards.new_ones(2, length)]),
        torch.cat([batch.response_mask, batch.response_mask.new_zeros(2, length)]),
        {name: [*values, "pad", "pad"] for name, values in batch.fields.items()},
    )
    entropy, *kept = masks_of(batch, gate_on=gate_on)
    longer_entropy, *longer_kept = masks_of(longer, gate_on=gate_on)
    torch.testing.assert_close(longer_entropy, entropy)
    for after, before in zip(longer_kept, kept, strict=True):
        assert torch.equal(after[:rows], before)
        assert after[rows:].all()


@settings(deadline=None, max_examples=50)
@given(batch=testing.batches(), gate_on=st.booleans())
def test_only_sampled_tokens_of_negative_advantage_are_ever_withheld(batch, gate_on):
    advantages = testing.advantages_of(task_norm, batch)
    for kept in masks_of(batch, gate_on=gate_on)[1:]:
        assert (advantages[~kept] < 0).all()
        assert batch.response_mask.bool()[~kept].all()
