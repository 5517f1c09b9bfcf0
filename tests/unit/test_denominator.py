"""What the loss divides by where tokens are withheld."""

import pytest
import torch
from unit.entropies import ENTROPY, MASK

from verl_ext.masks.denominator import loss_inputs
from verl_ext.masks.entropy import keep_mask


def token_mean(advantages, loss_mask):
    """The policy-gradient loss at importance ratio 1, averaged over the tokens of the mask."""
    return (-advantages * loss_mask).sum().item() / int(loss_mask.sum())


def test_the_denominator_decides_whether_masking_enlarges_the_step():
    # 2, 3 and 4 tokens with A = 1, −1, −1: −(2 − 3 − 4)/9; withheld −2/9; with 2 tokens left −2/2.
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    advantages = torch.tensor([[1.0], [-1.0], [-1.0]]) * mask
    kept = keep_mask(advantages, mask, gate_on=True)
    everything = loss_inputs(advantages, mask, torch.ones_like(kept))
    assert token_mean(*everything) == pytest.approx(5 / 9)
    assert token_mean(*loss_inputs(advantages, mask, kept)) == pytest.approx(-2 / 9)
    assert token_mean(*loss_inputs(advantages, mask, kept, denominator="kept")) == -1


def test_what_is_withheld_has_no_advantage_under_either_denominator():
    advantages = torch.tensor([[1.0, -2.0, torch.nan, 4.0]])
    mask, kept = torch.tensor([[1, 1, 0, 1]]), torch.tensor([[1, 0, 1, 1]])
    for denominator, over in (("all", [1, 1, 0, 1]), ("kept", [1, 0, 0, 1])):
        left, loss_mask = loss_inputs(advantages, mask, kept, denominator=denominator)
        assert left.tolist() == [[1.0, 0.0, 0.0, 4.0]]
        assert loss_mask.tolist() == [[bool(token) for token in over]]


def test_an_unknown_denominator_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="denominator must be one of all, kept, got 'both'"):
        loss_inputs(ENTROPY, MASK, MASK, denominator="both")


def test_a_keep_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"keep_mask \(2, 1\)"):
        loss_inputs(ENTROPY, MASK, MASK[:, :1])


@pytest.mark.parametrize("short", range(3))
def test_shapes_that_would_broadcast_into_the_loss_are_refused(short):
    given = [ENTROPY, MASK, MASK]
    given[short] = given[short][:, :1]
    with pytest.raises(ValueError, match="shapes must be equal"):
        loss_inputs(*given)
