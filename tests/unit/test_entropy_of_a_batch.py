"""The entropy of a batch: over its responses or its tokens, and in which type."""

import pytest
import torch
from unit.entropies import ENTROPY, MASK

from verl_ext.masks.entropy import EntropyGate, batch_entropy


def test_the_two_means_fall_on_opposite_sides_of_a_threshold():
    # By response (.4 + .1)/2 = .25; by token (2·.4 + 4·.1)/6 = .2.
    by_sequence = batch_entropy(ENTROPY, MASK)
    by_token = batch_entropy(ENTROPY, MASK, reduction="token")
    assert by_sequence.item() == pytest.approx(0.25)
    assert by_token.item() == pytest.approx(0.2)
    assert by_token < 0.22 < by_sequence
    assert by_sequence.shape == by_token.shape == ()


@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_rows_and_tokens_that_were_not_sampled_have_no_entropy(reduction):
    mask = torch.cat([MASK, torch.zeros(1, 4, dtype=torch.int64)])
    entropy = torch.cat([ENTROPY, torch.full((1, 4), 7.0, dtype=torch.float64)])
    expected = batch_entropy(ENTROPY, MASK, reduction=reduction)
    assert torch.equal(batch_entropy(entropy, mask, reduction=reduction), expected)


def test_a_hole_in_the_middle_has_no_entropy():
    entropy, mask = torch.tensor([[0.25, 9.0, 0.75]]), torch.tensor([[1, 0, 1]])
    assert batch_entropy(entropy, mask) == 0.5


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_the_entropy_keeps_its_dtype_but_a_half_would_blur_a_threshold(given_, expected):
    # Two bfloat16 neighbours, .2793 and .2812: their mean has no bfloat16 of its own.
    entropy = torch.tensor([[0.279296875, 0.28125]], dtype=given_)
    value = batch_entropy(entropy, torch.ones(1, 2))
    assert value.dtype == expected
    assert value.item() == (0.279296875 + 0.28125) / 2


def test_a_batch_with_nothing_sampled_has_no_entropy():
    with pytest.raises(ValueError, match="no token is sampled"):
        batch_entropy(ENTROPY, torch.zeros(2, 4))


def test_an_entropy_that_is_not_finite_is_refused_with_its_row():
    entropy = torch.tensor([[0.1, 0.1], [0.1, torch.nan]])
    with pytest.raises(ValueError, match="entropy must be finite, got row 1: nan"):
        batch_entropy(entropy, torch.ones(2, 2))


def test_an_unknown_reduction_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="reduction must be one of sequence, token, got 'mean'"):
        batch_entropy(ENTROPY, MASK, reduction="mean")


def test_no_graph_is_kept():
    assert not batch_entropy(ENTROPY.clone().requires_grad_(), MASK).requires_grad


def test_the_gate_takes_what_batch_entropy_gives():
    gate = EntropyGate(0.1, 0.22)
    assert gate.update(batch_entropy(ENTROPY, MASK)) is True
