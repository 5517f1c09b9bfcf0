"""The gate on the entropy of a batch: thresholds that are given, and those that it finds."""

import json
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.masks.gates import CalibratedGate, EntropyGate, ReadmeBand

LOW, HIGH = 0.135, 0.28  # read off the paper's figures
COURSE = [0.10, 0.15, 0.20, 0.25, 0.27, 0.31, 0.25, 0.18, 0.14, 0.12, 0.20, 0.29, 0.15]


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


def test_equal_quantiles_calibrate_to_one_threshold():
    gate = CalibratedGate(3, low_quantile=0.5, high_quantile=0.5)
    for entropy in (0.1, 0.3, 0.2):
        gate.update(entropy)
    assert (gate.low, gate.high) == (0.2, 0.2)


def test_a_calibration_may_be_of_one_step():
    gate = CalibratedGate(1)
    assert gate.update(0.2) is False
    assert (gate.low, gate.high) == (0.2, 0.2)


def test_the_outermost_quantiles_are_the_least_and_the_greatest_entropy():
    gate = CalibratedGate(3, low_quantile=0.0, high_quantile=1.0)
    for entropy in (0.3, 0.1, 0.2):
        gate.update(entropy)
    assert (gate.low, gate.high) == (0.1, 0.3)


@pytest.mark.parametrize("thresholds", [(LOW, None), (None, HIGH)])
def test_a_state_with_one_threshold_alone_is_refused(thresholds):
    low, high = thresholds
    with pytest.raises(ValueError, match="must be a finite number >= 0"):
        CalibratedGate(2).load_state_dict({"on": True, "low": low, "high": high, "seen": []})
