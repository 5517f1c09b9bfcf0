import json
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext import testing
from verl_ext.advantage_fns.task_norm import task_norm
from verl_ext.masks.denominator import loss_inputs
from verl_ext.masks.entropy import (
    CalibratedGate,
    EntropyGate,
    ReadmeBand,
    batch_entropy,
    keep_mask,
)

LOW, HIGH = 0.135, 0.28  # read off the paper's figures
COURSE = [0.10, 0.15, 0.20, 0.25, 0.27, 0.31, 0.25, 0.18, 0.14, 0.12, 0.20, 0.29, 0.15]
# Two responses of 2 and 4 tokens; what stands on padding must not matter.
MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
ENTROPY = torch.tensor([[0.4, 0.4, torch.nan, 9.0], [0.1, 0.1, 0.1, 0.1]], dtype=torch.float64)


# the gate


def test_the_gate_goes_on_above_high_off_below_low_and_stays_between():
    # .31 > .28 turns it on, .25, .18 and .14 are between, .12 < .135 turns it off, .29 on again.
    gate = EntropyGate(LOW, HIGH)
    expected = [False] * 5 + [True] * 4 + [False] * 2 + [True] * 2
    assert [gate.update(entropy) for entropy in COURSE] == expected


def test_the_gate_is_off_at_the_start_and_says_so():
    gate = EntropyGate(LOW, HIGH)
    assert gate.on is False
    assert gate.update(0.2) is False


def test_a_threshold_itself_switches_nothing():
    gate = EntropyGate(0.25, 0.5)
    assert gate.update(0.5) is False
    assert gate.update(0.75) is True
    assert gate.update(0.25) is True
    assert gate.update(0.125) is False


def test_equal_thresholds_are_one_threshold():
    gate = EntropyGate(0.25, 0.25)
    assert [gate.update(entropy) for entropy in (0.25, 0.3, 0.25, 0.2)] == [
        False,
        True,
        True,
        False,
    ]


def test_the_gate_takes_what_batch_entropy_gives():
    gate = EntropyGate(0.1, 0.22)
    assert gate.update(batch_entropy(ENTROPY, MASK)) is True


@pytest.mark.parametrize("stop", range(len(COURSE) + 1))
def test_a_resumed_gate_goes_on_as_if_it_had_not_stopped(stop):
    whole, first = EntropyGate(LOW, HIGH), EntropyGate(LOW, HIGH)
    expected = [whole.update(entropy) for entropy in COURSE]
    before = [first.update(entropy) for entropy in COURSE[:stop]]
    second = EntropyGate(LOW, HIGH)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + [second.update(entropy) for entropy in COURSE[stop:]] == expected


@settings(deadline=None, max_examples=100)
@given(
    course=st.lists(st.floats(0, 1), max_size=20),
    thresholds=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_the_gate_only_ever_switches_outside_its_band(course, thresholds):
    low, high = thresholds
    gate, was_on = EntropyGate(low, high), False
    for entropy in course:
        on = gate.update(entropy)
        assert on == (entropy > high or (was_on and entropy >= low))
        was_on = on


@pytest.mark.parametrize("make", [EntropyGate, ReadmeBand])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, "auto", None, True])
def test_a_threshold_that_is_no_entropy_is_refused_by_name(make, bad):
    with pytest.raises(ValueError, match=r"low must be a finite number >= 0 \(nats\)"):
        make(bad, HIGH)
    with pytest.raises(ValueError, match=r"high must be a finite number >= 0 \(nats\)"):
        make(LOW, bad)


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"low must not be above high, got low=0.3, high=0.2"):
        EntropyGate(0.3, 0.2)
    with pytest.raises(ValueError, match="low must be below high"):
        ReadmeBand(0.2, 0.2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("gate", [EntropyGate(0, 0.1), CalibratedGate(2), ReadmeBand(0, 0.1)])
def test_an_entropy_that_is_not_finite_is_refused_and_changes_nothing(gate, bad):
    before = gate.state_dict()
    with pytest.raises(ValueError, match="batch's entropy must be finite"):
        gate.update(bad)
    assert gate.state_dict() == before


def test_the_state_of_another_gate_is_refused():
    with pytest.raises(ValueError, match=r"keys \['on'\], got \['high', 'low', 'on', 'seen'\]"):
        EntropyGate(LOW, HIGH).load_state_dict(CalibratedGate(2).state_dict())
    with pytest.raises(ValueError, match="keys"):
        CalibratedGate(2).load_state_dict({"on": True})
    with pytest.raises(ValueError, match="keys"):
        ReadmeBand(LOW, HIGH).load_state_dict({"on": True})


# the gate that finds its thresholds


def test_a_calibrated_gate_watches_first_and_then_takes_the_quantiles():
    # Of 1, 2, 3, 4, 5 in any order the quarter is 2 and the three quarters are 4.
    gate = CalibratedGate(5, low_quantile=0.25, high_quantile=0.75)
    assert [gate.update(entropy) for entropy in (5.0, 1.0, 3.0, 2.0)] == [False] * 4
    assert (gate.low, gate.high, gate.on) == (None, None, False)
    assert gate.update(4.0) is False  # the last one that is watched
    assert gate.state_dict() == {"on": False, "low": 2.0, "high": 4.0, "seen": []}
    course = [gate.update(entropy) for entropy in (4.0, 4.5, 3.0, 2.0, 1.5, 3.0)]
    assert course == [False, True, True, True, False, False]
    assert (gate.low, gate.high) == (2.0, 4.0)


@settings(deadline=None, max_examples=50)
@given(seen=st.lists(st.floats(0, 3), min_size=2, max_size=12))
def test_the_thresholds_are_the_deciles_by_default(seen):
    gate = CalibratedGate(len(seen))
    for entropy in seen:
        assert gate.update(entropy) is False
    deciles = statistics.quantiles(seen, n=10, method="inclusive")
    assert (gate.low, gate.high) == (pytest.approx(deciles[0]), pytest.approx(deciles[-1]))
    assert min(seen) <= gate.low <= gate.high <= max(seen)


def test_pinning_the_thresholds_found_gives_the_same_gate():
    found = CalibratedGate(4)
    for entropy in COURSE[:4]:
        found.update(entropy)
    state = found.state_dict()
    pinned = EntropyGate(state["low"], state["high"])
    for entropy in COURSE[4:]:
        assert pinned.update(entropy) is found.update(entropy)


@pytest.mark.parametrize("stop", range(len(COURSE) + 1))
def test_a_calibrated_gate_resumes_during_calibration_and_after(stop):
    whole, first = CalibratedGate(5), CalibratedGate(5)
    expected = [whole.update(entropy) for entropy in COURSE]
    assert any(expected)
    before = [first.update(entropy) for entropy in COURSE[:stop]]
    second = CalibratedGate(5)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    assert before + [second.update(entropy) for entropy in COURSE[stop:]] == expected
    assert second.state_dict() == whole.state_dict()


def test_a_state_is_a_copy():
    gate = CalibratedGate(3)
    gate.update(0.5)
    state = gate.state_dict()
    gate.update(0.25)
    assert state["seen"] == [0.5]


def test_equal_entropies_calibrate_to_one_threshold():
    gate = CalibratedGate(3)
    for _ in range(3):
        gate.update(0.1)
    assert (gate.low, gate.high) == (0.1, 0.1)


def test_an_entropy_that_rounding_made_negative_calibrates_to_zero():
    gate = CalibratedGate(2)
    gate.update(-1e-9)
    gate.update(-1e-9)
    assert (gate.low, gate.high) == (0.0, 0.0)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "5"])
def test_a_calibration_of_no_steps_is_refused(steps):
    with pytest.raises(ValueError, match="calibration_steps must be"):
        CalibratedGate(steps)


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5)])
def test_quantiles_outside_their_range_are_refused(low, high):
    with pytest.raises(ValueError, match="low_quantile and high_quantile"):
        CalibratedGate(5, low_quantile=low, high_quantile=high)


# the entropy of a batch


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


# the tokens that are withheld


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


# what the loss divides by


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
