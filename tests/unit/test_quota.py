"""How many prompts of each task a batch gets, by weight and with turns; what cannot be balanced."""

import math
from collections import Counter
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given, settings
from unit.task_mixtures import mixtures

from verl_ext.sampling.quota import exact_quotas, quotas, select, shares, window_quotas

MANY = 1000


def counts(batch_size, weights, sizes):
    return list(quotas(batch_size, weights, dict(enumerate(sizes))).values())


@pytest.mark.parametrize(
    ("batch_size", "weights", "sizes", "expected"),
    [
        # 8/3 = 2 2/3 each: two places are left and go to the first two.
        pytest.param(8, "uniform", [MANY] * 3, [3, 3, 2], id="three-equal"),
        # 128/5 = 25 3/5: three are left.
        pytest.param(128, "uniform", [MANY] * 5, [26, 26, 26, 25, 25], id="five-equal"),
        # 3.5, 2.1, 1.4: one is left, for the largest remainder.
        pytest.param(7, {0: 0.5, 1: 0.3, 2: 0.2}, [MANY] * 3, [4, 2, 1], id="weighted"),
        # The small task gives all it has, the other the rest.
        pytest.param(16, {0: 0.5, 1: 0.5}, [3, 100], [3, 13], id="small-task"),
        # 0.29·100 is 28.999... in floating point.
        pytest.param(100, {0: 0.29, 1: 0.71}, [MANY] * 2, [29, 71], id="no-float-floor"),
        pytest.param(4, "proportional", [30, 10], [3, 1], id="proportional"),
        # 5, 4.5, 0.5 would be asked; 1 of 2 is there. The other 9 in the proportion 9:1: 8.1, 0.9.
        pytest.param(10, {0: 0.5, 1: 0.45, 2: 0.05}, [1, 90, 90], [1, 8, 1], id="rest-by-weight"),
        # Capping the first (1 of 5) lifts the second above its own size (2 of 9·.3/.5 = 5.4).
        pytest.param(10, {0: 0.5, 1: 0.3, 2: 0.2}, [1, 2, 90], [1, 2, 7], id="one-cap-then-two"),
        pytest.param(7, "uniform", [3, 4], [3, 4], id="everything-in-every-batch"),
        pytest.param(4, {0: 1, 1: 0}, [9, 9], [4, 0], id="a-task-left-out"),
        pytest.param(2, "uniform", [9] * 3, [1, 1, 0], id="fewer-places-than-tasks"),
    ],
)
def test_the_first_batch_has_these_quotas(batch_size, weights, sizes, expected):
    assert counts(batch_size, weights, sizes) == expected


def test_shares_by_size_are_parts_of_one():
    parts = shares("proportional", {"a": 30, "b": 10})
    assert parts == {"a": Fraction(3, 4), "b": Fraction(1, 4)}


def test_weights_are_taken_as_written_so_that_quotas_meant_to_be_whole_are():
    # The float 0.29 is a little less than 29/100.
    assert exact_quotas(100, {"a": 0.29, "b": 0.71}, {"a": MANY, "b": MANY}) == {"a": 29, "b": 71}


def test_the_leftover_places_take_turns():
    # 2 2/3 each. After 3, 3, 2 the third is furthest behind; after three batches all have 8.
    batches = islice(window_quotas(8, "uniform", {"a": 9, "b": 9, "c": 9}), 4)
    counted = [list(batch.values()) for batch in batches]
    assert counted[0] == [3, 3, 2]
    assert [sum(column) for column in zip(*counted[:3], strict=True)] == [8, 8, 8]
    assert counted[3] == counted[0]


def test_a_whole_quota_takes_no_turn_where_others_are_level():
    # Of 9 prompts one is the first task's; the others share 8 = 304/38. In batch 31 a task that is
    # level with its quota is among the 8 furthest behind: a tie with the whole quota before it.
    parts = [38, 37, 37, 37, 37, 26, 37, 37, 37, 19]
    weights = {task: Fraction(part, 9 * 38) for task, part in enumerate(parts)}
    sizes = dict.fromkeys(weights, MANY)
    assert {batch[0] for batch in islice(window_quotas(9, weights, sizes), 40)} == {1}


def test_a_task_of_less_than_half_a_prompt_per_batch_is_still_served():
    batches = islice(window_quotas(4, {"often": 0.95, "rare": 0.05}, {"often": 9, "rare": 9}), 10)
    assert sum(batch["rare"] for batch in batches) == 2  # 10 · 4 · 0.05


def test_weights_that_sum_to_one_as_far_as_they_are_written_are_scaled():
    assert shares({"a": 0.3333333, "b": 0.3333333, "c": 0.3333333}, {"a": 1, "b": 1, "c": 1}) == (
        dict.fromkeys("abc", Fraction(1, 3))
    )


@given(mixtures())
@settings(deadline=None)
def test_every_batch_is_whole_and_within_one_of_the_exact_quota_and_none_drifts(mixture):
    exact = exact_quotas(*mixture)
    assert sum(exact.values()) == mixture[0]
    served = Counter()
    for number, batch in enumerate(islice(window_quotas(*mixture), 40), start=1):
        served.update(batch)
        assert sum(batch.values()) == mixture[0]
        for task, quota in exact.items():
            assert math.floor(quota) <= batch[task] <= min(math.ceil(quota), mixture[2][task])
            # Furthest-behind-first keeps everybody within a place or so of the exact number.
            assert abs(served[task] - number * quota) < 2


@given(mixtures())
def test_tasks_below_their_size_share_in_the_ratio_of_their_weights(mixture):
    exact = exact_quotas(*mixture)
    open_tasks = [task for task in exact if 0 < exact[task] < mixture[2][task]]
    assert len({exact[task] / mixture[1][task] for task in open_tasks}) <= 1


def test_a_batch_is_selected_by_quota_and_not_by_arrival():
    ready = ["a", "a", "a", "b", "a", "b"]
    assert select({"a": 2, "b": 2}, ready) == ([0, 1, 3, 5], {})
    assert select({"a": 2, "b": 2}, ready[:4]) == ([0, 1, 3], {"b": 1})
    assert select({"a": 0, "b": 1}, ["c", "a"]) == ([], {"b": 1})


SIZES = {"code": 50, "math": 50}


@pytest.mark.parametrize(
    ("batch_size", "weights", "sizes", "message"),
    [
        (8, {"code": 0.5, "math": 0.6}, SIZES, r"sum to 1, they sum to 1\.1: \{'code': 0\.5"),
        (8, {"code": 0.3, "math": 0.333}, SIZES, r"sum to 1, they sum to 0\.633"),
        (8, {"code": 0.0, "math": 0.0}, SIZES, r"sum to 1, they sum to 0"),
        (
            8,
            {"code": 1.5, "math": -0.5},
            SIZES,
            r"'math' must have a finite number >= 0, got -0\.5",
        ),
        (8, {"code": float("nan"), "math": 1}, SIZES, r"'code' must have a finite number .* nan"),
        (8, {"code": float("inf"), "math": 1}, SIZES, r"'code' must have a finite number .* inf"),
        (8, {"code": "0.5", "math": 0.5}, SIZES, r"'code' must have a finite number .* '0\.5'"),
        (8, {"code": True, "math": 0}, SIZES, r"'code' must have a finite number .* True"),
        (8, {"code": 0.5, "maths": 0.5}, SIZES, r"task 'maths'; did you mean 'math'\? .*'code', "),
        (8, {"code": 1}, SIZES, r"no weight for 'math'; 0 leaves a task out"),
        (8, "equal", SIZES, r"'uniform', 'proportional' or one number per task, got 'equal'"),
        (8, None, SIZES, r"'uniform', 'proportional' or one number per task, got None"),
        (8, "uniform", {"code": 50, "math": 0}, r"at least one prompt, 'math' has none"),
        (8, "uniform", {}, r"no tasks to balance: the data set is empty"),
        (16, "uniform", {"a": 3, "b": 4}, r"batch_size 16 .* 7 prompts .*3 of 'a', 4 of 'b'"),
        (60, {"code": 1, "math": 0}, SIZES, r"batch_size 60 .* 50 prompts .*\(50 of 'code'\)"),
        (0, "uniform", SIZES, r"batch_size must be a positive integer, got 0"),
        (8.0, "uniform", SIZES, r"batch_size must be a positive integer, got 8\.0"),
        (True, "uniform", SIZES, r"batch_size must be a positive integer, got True"),
    ],
)
def test_what_cannot_be_balanced_is_refused_by_name(batch_size, weights, sizes, message):
    with pytest.raises(ValueError, match=message):
        quotas(batch_size, weights, sizes)
