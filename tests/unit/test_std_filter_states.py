"""A filter that is resumed, and what none accepts."""

import json
import math

import pytest
import torch
from unit.std_filters import pair, warmed_up

from verl_ext.reward_fns.std_filter import StdFilter


def test_a_batch_of_no_rewards_keeps_nothing_and_is_not_observed():
    filter_ = warmed_up()
    before = filter_.state_dict()
    assert filter_.keep([], []) == {}
    with pytest.raises(ValueError, match="rewards are empty"):
        filter_.observe(2, [], [])
    assert filter_.state_dict() == before


@pytest.mark.parametrize("stop", range(15))
def test_a_resumed_filter_goes_on_as_if_it_had_not_stopped(stop):
    whole, first = StdFilter(), StdFilter()
    steps = [(step, *pair(math.sin(step) ** 2)) for step in range(1, 16)]
    for step in steps:
        whole.observe(*step)
    for step in steps[:stop]:
        first.observe(*step)
    second = StdFilter()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in steps[stop:]:
        second.observe(*step)
    assert whole.threshold > 0
    assert second.threshold == whole.threshold
    assert second.state_dict() == whole.state_dict()


def test_a_resumed_filter_knows_its_last_step():
    second = StdFilter(warmup_from=1, warmup_to=1)
    second.load_state_dict(warmed_up().state_dict())
    with pytest.raises(ValueError, match="step must be later than 1, got 1"):
        second.observe(1, *pair(1))


def test_a_state_is_a_copy():
    filter_ = StdFilter(warmup_from=1, warmup_to=3)
    filter_.observe(1, *pair(1))
    state = filter_.state_dict()
    filter_.observe(2, *pair(1))
    assert len(state["warmup_means"]) == 1


def test_the_state_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"must have the keys .*'mean_std'.*, got \['on'\]"):
        StdFilter().load_state_dict({"on": True})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_deviates_from_the_authors_in_refusing_a_reward_that_is_not_finite(bad):
    # Theirs leaves it out of the mean and filters its prompt.
    filter_ = warmed_up()
    before = filter_.state_dict()
    for call in (filter_.keep, lambda *rows: filter_.observe(2, *rows)):
        with pytest.raises(ValueError, match=r"rewards must be finite, got row 1"):
            call([0, bad], ["a", "a"])
    assert filter_.state_dict() == before


def test_a_step_that_is_not_later_is_refused_and_changes_nothing():
    filter_ = warmed_up()
    before = filter_.state_dict()
    with pytest.raises(ValueError, match="step must be later than 1, got 1"):
        filter_.observe(1, *pair(1))
    assert filter_.state_dict() == before


def test_a_filter_that_missed_its_warm_up_is_told_what_to_do():
    filter_ = StdFilter()
    with pytest.raises(ValueError, match=r"step 11 comes after .* load the filter's state or move"):
        filter_.observe(11, *pair(1))
    assert filter_.state_dict() == StdFilter().state_dict()


def test_rewards_and_labels_that_are_not_one_per_response_are_refused():
    with pytest.raises(ValueError, match=r"rewards must be one per response, got shape \(2, 1\)"):
        StdFilter().keep(torch.zeros(2, 1), ["a", "a"])
    with pytest.raises(ValueError, match="group_ids must have one label per row: 2 rows, 1 labels"):
        StdFilter().keep([0, 1], ["a"])
    with pytest.raises(ValueError, match="group_ids must not be NaN"):
        StdFilter().keep([0, 1], ["a", math.nan])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -0.1}, "beta must be finite and >= 0"),
        ({"beta": math.nan}, "beta must be finite and >= 0"),
        ({"beta": math.inf}, "beta must be finite and >= 0"),
        ({"decay": 1.1}, r"decay must be in \[0, 1\]"),
        ({"decay": math.nan}, r"decay must be in \[0, 1\]"),
        ({"warmup_from": 0}, "warmup_from and warmup_to must be steps >= 1 in this order"),
        ({"warmup_from": 11}, "warmup_from=11, warmup_to=10"),
        ({"task_multipliers": {"m": 0}}, r"task_multipliers\['m'\] must be > 0"),
        ({"task_multipliers": {"m": math.inf}}, r"task_multipliers\['m'\] must be > 0"),
    ],
)
def test_a_parameter_outside_its_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StdFilter(**settings)
