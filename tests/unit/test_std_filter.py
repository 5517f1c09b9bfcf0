"""Which prompts are kept: the threshold, the deviations, multipliers of tasks."""

import math

import numpy as np
import pytest
import torch
from unit.std_filters import pair, warmed_up

from verl_ext.reward_fns.std_filter import StdFilter

# Unbiased deviations √(1/3), 0, √(.0125/3), √(.0075/3): the methods' example.
GROUPS = [[1, 0, 1, 0], [0.5] * 4, [0.9, 0.8, 0.85, 0.95], [0.1, 0.1, 0.1, 0.2]]
REWARDS = torch.tensor(GROUPS).flatten()
IDS = list("aaaabbbbccccdddd")
STDS = {"a": math.sqrt(1 / 3), "b": 0, "c": math.sqrt(0.0125 / 3), "d": 0.05}


def test_a_prompt_is_kept_if_its_deviation_reaches_the_threshold():
    filter_ = warmed_up(0.2)  # times .5
    assert filter_.threshold == pytest.approx(0.1, rel=1e-12)
    assert filter_.keep(REWARDS, IDS) == {"a": True, "b": False, "c": False, "d": False}


@pytest.mark.parametrize("group", "acd")
def test_the_deviations_are_the_unbiased_ones(group):
    just_below, just_above = (warmed_up(STDS[group] * (1 + e), beta=1) for e in (-1e-6, 1e-6))
    assert just_below.keep(REWARDS, IDS)[group]
    assert not just_above.keep(REWARDS, IDS)[group]


def test_a_deviation_equal_to_the_threshold_is_kept():
    # In binary: 0 and 1/2 twice have the deviation √(.25/3), here of every prompt and step.
    rewards, ids = [0, 0, 0.5, 0.5] * 3, list("aaaabbbbcccc")
    filter_ = StdFilter(beta=1.0)
    for step in range(1, 31):
        assert filter_.keep(rewards, ids) == dict.fromkeys("abc", True)
        filter_.observe(step, rewards, ids)
    assert filter_.threshold == pytest.approx(math.sqrt(0.25 / 3))


def test_the_threshold_starts_after_the_warm_up_and_follows_slowly():
    # Deviations .1 · step. Steps 6 to 10 have the mean .8; from step 12 on the average is
    # .99 · before + .01 · last: .99 · .8 + .01 · 1.1 = .803, then .79497 + .012 = .80697.
    filter_ = StdFilter()
    thresholds = []
    for step in range(1, 14):
        thresholds.append(filter_.threshold)  # in force at this step
        filter_.observe(step, *pair(0.1 * step))
    assert thresholds[:10] == [0.0] * 10
    assert thresholds[10:] == pytest.approx([0.4, 0.4015, 0.403485], rel=1e-12)


def test_nothing_is_filtered_before_the_warm_up_ends():
    filter_ = StdFilter()
    for step in range(1, 10):
        filter_.observe(step, *pair(1))
        assert filter_.keep([0.5, 0.5, 2e6, -2e6], list("aabb")) == {"a": True, "b": True}
    filter_.observe(10, *pair(1))
    assert filter_.keep([0.5, 0.5], ["a", "a"]) == {"a": False}


def test_steps_before_the_warm_up_do_not_count():
    filter_ = StdFilter(beta=1)
    for step in range(1, 11):
        filter_.observe(step, *pair(100 if step < 6 else 0.5))
    assert filter_.threshold == pytest.approx(0.5, rel=1e-12)


def test_a_skipped_last_step_of_the_warm_up_ends_it_at_the_next_one():
    # 6 to 9 have the mean .3; step 11 is the first after them: .99 · .3 + .01 · .5.
    filter_ = StdFilter(beta=1)
    for step in (6, 7, 8, 9):
        filter_.observe(step, *pair(0.3))
    assert filter_.threshold == 0
    filter_.observe(11, *pair(0.5))
    assert filter_.threshold == pytest.approx(0.302, rel=1e-12)


def test_the_mean_is_over_responses():
    # A prompt of two with deviation 1 and one of four with √(1/3): (2 + 4√(1/3))/6.
    rewards = [0, math.sqrt(2), 1, 0, 1, 0]
    filter_ = StdFilter(beta=1, warmup_from=1, warmup_to=1)
    filter_.observe(1, rewards, list("aabbbb"))
    assert filter_.threshold == pytest.approx((2 + 4 * math.sqrt(1 / 3)) / 6, rel=1e-12)


def test_prompts_that_are_filtered_out_count_in_the_mean():
    filter_ = warmed_up(1, decay=0)
    filter_.observe(2, [0.5, 0.5, *pair(1)[0]], list("aabb"))
    assert filter_.threshold == pytest.approx(0.25, rel=1e-12)  # .5 · (0 + 0 + 1 + 1)/4


def test_the_decay_goes_from_the_last_step_alone_to_the_warm_up_alone():
    for decay, expected in ((0, 0.4), (0.5, 0.3), (1, 0.2)):
        filter_ = warmed_up(0.2, beta=1, decay=decay)
        filter_.observe(2, *pair(0.4))
        assert filter_.threshold == pytest.approx(expected, rel=1e-12)


def test_a_group_of_one_has_the_deviation_one():
    assert warmed_up(1, beta=1).keep([0.3], ["a"]) == {"a": True}
    assert warmed_up(1.01, beta=1).keep([0.3], ["a"]) == {"a": False}
    filter_ = StdFilter(beta=1, warmup_from=1, warmup_to=1)
    filter_.observe(1, [0.3, 0.5, 0.5, 0.5], list("abbb"))
    assert filter_.threshold == 0.25  # (1 + 3 · 0)/4


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7])
def test_equal_rewards_have_no_deviation_at_all(value):
    rewards = [value] * 3
    assert warmed_up(1e-12, beta=1).keep(rewards, "aaa") == {"a": False}
    assert warmed_up(1, beta=0).keep(rewards, "aaa") == {"a": True}


def test_an_enormous_deviation_is_not_kept():
    # 0 and x have the deviation x/√2: .99 and 1.06 million.
    assert warmed_up().keep([0, 1.4e6, 0, 1.5e6], list("aabb")) == {"a": True, "b": False}


def test_multipliers_scale_a_tasks_deviations():
    # Deviations .5 and .5; threshold .5 · .9 = .45. Halved, .25 is below it.
    rewards, ids, tasks = pair(0.5)[0] * 2, list("aabb"), list("mmqq")
    filter_ = warmed_up(0.9, task_multipliers={"m": 0.5, "q": 1})
    assert filter_.keep(rewards, ids, tasks) == {"a": False, "b": True}
    raised = warmed_up(1.1, task_multipliers={"m": 1.25, "q": 1})  # .625 ≥ .55 > .5
    assert raised.keep(rewards, ids, tasks) == {"a": True, "b": False}


def test_multipliers_leave_the_moving_average_alone():
    plain, scaled = (warmed_up(0.5, task_multipliers=m) for m in (None, {"m": 100.0}))
    for filter_ in (plain, scaled):
        filter_.observe(2, *pair(0.1))
    assert plain.threshold == scaled.threshold


def test_task_ids_without_multipliers_change_nothing():
    filter_ = warmed_up(0.2)
    assert filter_.keep(REWARDS, IDS, ["t"] * 16) == filter_.keep(REWARDS, IDS)


def test_multipliers_need_a_task_of_each_prompt_and_a_number_of_each_task():
    filter_ = warmed_up(task_multipliers={"m": 0.5})
    with pytest.raises(ValueError, match="task_multipliers need task_ids"):
        filter_.keep([0, 1], ["a", "a"])
    with pytest.raises(ValueError, match=r"task_multipliers lack \['q', 'r'\]: give each task one"):
        filter_.keep([0, 1, 2], list("abc"), list("mrq"))
    with pytest.raises(ValueError, match="task_ids must have one label per row: 2 rows, 1 labels"):
        filter_.keep([0, 1], ["a", "a"], ["m"])
    both = warmed_up(task_multipliers={"m": 0.5, "q": 1})
    with pytest.raises(ValueError, match="task_ids differ within a group"):
        both.keep([0, 1], ["a", "a"], ["m", "q"])


def test_multipliers_are_asked_for_during_the_warm_up_too():
    with pytest.raises(ValueError, match="task_multipliers need task_ids"):
        StdFilter(task_multipliers={"m": 0.5}).keep([0, 1], ["a", "a"])


@pytest.mark.parametrize(
    "as_type", [list, np.array, torch.tensor, lambda r: torch.tensor(r).bfloat16()]
)
def test_rewards_and_labels_may_be_lists_arrays_or_tensors(as_type):
    rewards, ids = [0.0, 1.0, 0.5, 0.5], [3, 3, 5, 5]
    expected = {3: True, 5: False}
    for labels in (ids, np.array(ids), torch.tensor(ids)):
        filter_ = warmed_up()
        filter_.observe(2, as_type(rewards), labels)
        assert filter_.keep(as_type(rewards), labels) == expected


def test_the_order_of_the_rows_changes_no_bit():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    straight, mixed = warmed_up(), warmed_up()
    straight.observe(2, REWARDS, IDS)
    mixed.observe(2, REWARDS[order], [IDS[row] for row in order])
    assert straight.threshold == mixed.threshold
