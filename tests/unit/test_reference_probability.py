import math

import pytest
import torch

from verl_ext.reward_fns.reference_probability import (
    REDUCTIONS,
    InvalidLogProbs,
    debias,
    probability_reward,
    splice,
)
from verl_ext.reward_fns.splice import splice as splice_itself


def log(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


# Reasoning, three tokens of the reference, the closing tag.
LOG_PROBS = log(0.25, 0.9, 0.5, 0.8, 0.125)
MASK = torch.tensor([[0, 1, 1, 1, 0]])


def reward(log_probs, mask, **settings):
    return probability_reward(log_probs, mask, **settings).tolist()


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("mean", 2.2 / 3),
        ("geometric_mean", 0.36 ** (1 / 3)),
        ("product", 0.36),
        ("mean_log_prob", math.log(0.36) / 3),
    ],
)
def test_each_reduction_of_point_9_point_5_point_8(reduction, expected):
    assert reward(LOG_PROBS, MASK, reduction=reduction) == [pytest.approx(expected, rel=1e-12)]


def test_the_mean_token_probability_is_the_default():
    assert reward(LOG_PROBS, MASK) == [pytest.approx(0.7333333333, abs=1e-9)]


def test_deviates_from_the_authors_in_not_rounding_to_bfloat16():
    # Between the bfloat16 numbers 187/256 and 188/256 the nearest to .7333 is 188/256.
    ours = probability_reward(LOG_PROBS, MASK)
    assert ours.bfloat16().item() == 0.734375
    assert ours.item() != 0.734375


def test_each_row_is_reduced_over_its_own_tokens():
    # One token of 1/2; two of 1/4 and 3/4 with a hole between them.
    log_probs = torch.tensor([[0.5, 1, 1], [0.25, 1, 0.75]]).log()
    mask = torch.tensor([[1, 0, 0], [1, 0, 1]])
    assert reward(log_probs, mask) == [0.5, 0.5]
    assert reward(log_probs, mask, reduction="product") == pytest.approx([0.5, 3 / 16])


@pytest.mark.parametrize("reduction", ["mean", "geometric_mean", "product"])
def test_one_token_makes_the_probabilities_agree(reduction):
    assert reward(log(0.3), torch.ones(1, 1), reduction=reduction) == [pytest.approx(0.3)]


@pytest.mark.parametrize("on_padding", [math.nan, math.inf, -math.inf, 5.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_stands_outside_the_reference_does_not_matter(reduction, on_padding):
    dirty = LOG_PROBS.masked_fill(MASK == 0, on_padding)
    assert reward(dirty, MASK, reduction=reduction) == reward(LOG_PROBS, MASK, reduction=reduction)


def test_minus_infinity_is_a_probability_of_zero():
    log_probs, mask = log(0.5, 0), torch.ones(1, 2)
    assert reward(log_probs, mask) == [0.25]
    assert reward(log_probs, mask, reduction="geometric_mean") == [0]
    assert reward(log_probs, mask, reduction="product") == [0]


def test_minus_infinity_is_refused_where_the_logarithm_is_the_reward():
    with pytest.raises(InvalidLogProbs, match=r"1 reference tokens are NaN, above 0 or -inf"):
        probability_reward(log(0.5, 0), torch.ones(1, 2), reduction="mean_log_prob")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.9])
def test_what_is_no_log_probability_has_a_named_error_that_knows_its_rows(reduction, bad):
    log_probs = torch.full((3, 2), -1.0)
    log_probs[1:, 1] = bad
    with pytest.raises(InvalidLogProbs, match=r"2 reference tokens .* in rows \[1, 2\]") as error:
        probability_reward(log_probs, torch.ones(3, 2), reduction=reduction)
    assert error.value.rows == (1, 2)
    assert isinstance(error.value, ValueError)


def test_a_log_softmax_that_rounds_above_zero_is_no_error():
    assert reward(torch.tensor([[1e-6]]), torch.ones(1, 1)) == [pytest.approx(1, abs=2e-6)]


def test_deviates_from_the_authors_in_refusing_a_row_without_reference_tokens():
    # Theirs scores it 0.
    with pytest.raises(ValueError, match=r"answer_mask is empty in rows \[0, 2\]"):
        probability_reward(torch.zeros(3, 2), torch.tensor([[0, 0], [1, 0], [0, 0]]))


def test_a_batch_of_no_rows_is_no_error():
    assert probability_reward(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
def test_any_kind_of_mask_and_the_dtype_of_the_log_probabilities_or_float32(dtype, mask_dtype):
    result = probability_reward(LOG_PROBS.to(dtype), MASK.to(mask_dtype))
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert result.item() == pytest.approx(2.2 / 3, abs=0.01)  # bfloat16's rounding


def test_inputs_are_not_changed_and_no_graph_is_kept():
    log_probs = LOG_PROBS.clone().requires_grad_()
    assert not probability_reward(log_probs, MASK).requires_grad
    assert torch.equal(log_probs, LOG_PROBS)


def test_an_unknown_reduction_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="reduction must be one of mean, geometric_mean, product"):
        probability_reward(LOG_PROBS, MASK, reduction="sum")


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"answer_mask \(1, 1\)"):
        probability_reward(LOG_PROBS, MASK[:, 1:2])


# debiasing


def test_the_base_score_is_subtracted_and_the_rest_clipped():
    # .75 − .25; below the base; equal to it; 1 − (−.5), as log-probabilities may give.
    rewards, bases = torch.tensor([0.75, 0.25, 0.5, 1]), torch.tensor([0.25, 0.75, 0.5, -0.5])
    assert debias(rewards, bases).tolist() == [0.5, 0, 0, 1]


def test_plain_numbers_are_debiased_in_float64():
    assert debias(0.734375, 0.2).item() == pytest.approx(0.534375, rel=1e-15)


def test_responses_to_one_prompt_share_a_base_score_and_keep_their_dtype():
    result = debias(torch.tensor([0.75, 0.5, 0.25]), 0.5)
    assert result.tolist() == [0.25, 0, 0]
    assert result.dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_deviates_from_the_authors_in_refusing_a_missing_base_score(bad):
    # Theirs skips the whole batch.
    with pytest.raises(ValueError, match=r"base must be finite, got row 1: .* without reasoning"):
        debias(torch.ones(2), torch.tensor([0.5, bad]))
    with pytest.raises(ValueError, match=r"reward must be finite, got row 0"):
        debias(torch.tensor([bad, 1.0]), 0.5)


def test_a_base_score_that_would_broadcast_over_rows_is_refused():
    with pytest.raises(ValueError, match=r"reward \(2,\), base \(2, 1\)"):
        debias(torch.ones(2), torch.ones(2, 1))


def test_the_splice_can_be_imported_from_beside_the_reward():
    assert splice is splice_itself
