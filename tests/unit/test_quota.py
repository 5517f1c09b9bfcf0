import json
import math
import pickle
import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from verl_ext.sampling.quota import exact_quotas, quotas, select, shares, window_quotas
from verl_ext.sampling.stream import TaskBalancedStream

MANY = 1000


def counts(batch_size, weights, sizes):
    return list(quotas(batch_size, weights, dict(enumerate(sizes))).values())


def rows(**sizes):
    """Task of each row, tasks mixed."""
    task_ids = [task for task, size in sizes.items() for _ in range(size)]
    random.Random(0).shuffle(task_ids)
    return task_ids


def take(stream, number):
    return [stream.draw() for _ in range(number)]


def tasks_of(task_ids, indices):
    return Counter(task_ids[index] for index in indices)


# --- quotas ---------------------------------------------------------------------------------------


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


@st.composite
def mixtures(draw):
    number = draw(st.integers(1, 6))
    parts = draw(st.lists(st.integers(0, 20), min_size=number, max_size=number))
    assume(sum(parts))
    sizes = draw(st.lists(st.integers(1, 12), min_size=number, max_size=number))
    weights = {f"t{i}": Fraction(part, sum(parts)) for i, part in enumerate(parts)}
    available = sum(size for size, part in zip(sizes, parts, strict=True) if part)
    batch_size = draw(st.integers(1, min(available, 12)))
    return batch_size, weights, {f"t{i}": size for i, size in enumerate(sizes)}


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


# --- refusals -------------------------------------------------------------------------------------

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


def test_a_data_set_smaller_than_a_batch_is_refused_by_the_stream_too():
    with pytest.raises(ValueError, match="batch_size 16 is more than the 7 prompts"):
        TaskBalancedStream(rows(a=3, b=4), 16)


def test_a_row_without_a_task_is_refused():
    with pytest.raises(ValueError, match="row 1 of the data set has no task"):
        TaskBalancedStream(["a", None], 1)


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="the data set is empty"):
        TaskBalancedStream([], 1)


# --- the stream -----------------------------------------------------------------------------------


@st.composite
def streams(draw):
    batch_size, weights, sizes = draw(mixtures())
    if draw(st.booleans()):
        weights = "uniform"
        batch_size = min(batch_size, sum(sizes.values()))
    task_ids = draw(st.permutations([task for task, size in sizes.items() for _ in range(size)]))
    seed, shuffle = draw(st.integers(0, 9)), draw(st.booleans())

    def build():
        return TaskBalancedStream(task_ids, batch_size, weights=weights, seed=seed, shuffle=shuffle)

    sizes = {task: sizes[task] for task in dict.fromkeys(task_ids)}  # in the order of the rows
    return task_ids, window_quotas(batch_size, weights, sizes), batch_size, build


@given(streams())
@settings(deadline=None)
def test_every_window_meets_its_quota_and_holds_no_prompt_twice(drawn):
    task_ids, quota_stream, batch_size, build = drawn
    stream = build()
    for quota in islice(quota_stream, 30):
        batch = take(stream, batch_size)
        assert tasks_of(task_ids, batch) == Counter(quota)
        assert len(set(batch)) == batch_size


@given(streams())
@settings(deadline=None)
def test_each_task_is_visited_pass_by_pass_and_nothing_is_discarded(drawn):
    task_ids, _, batch_size, build = drawn
    seen = {}
    for index in take(build(), 30 * batch_size):
        seen.setdefault(task_ids[index], []).append(index)
    for task, visits in seen.items():
        members = {index for index, name in enumerate(task_ids) if name == task}
        for start in range(0, len(visits), len(members)):
            one_pass = visits[start : start + len(members)]
            assert len(set(one_pass)) == len(one_pass)
            assert set(one_pass) <= members


@given(streams(), st.integers(0, 60), st.lists(st.integers(0, 5), max_size=4))
@settings(deadline=None)
def test_a_stream_resumed_anywhere_continues_like_the_one_that_was_not_stopped(
    drawn, position, replaced
):
    task_ids, _, batch_size, build = drawn
    straight = build()
    take(straight, position)
    tasks = sorted(set(task_ids))
    for number in replaced:
        straight.next_of(tasks[number % len(tasks)])
    saved = straight.state_dict()
    for copy in (json.loads(json.dumps(saved)), pickle.loads(pickle.dumps(saved))):
        resumed = build()
        take(resumed, 7)  # wherever it stood
        resumed.load_state_dict(copy)
        assert resumed.state_dict() == saved
        again = build()
        again.load_state_dict(copy)
        assert take(resumed, 5 * batch_size) == take(again, 5 * batch_size)
    assert take(again, batch_size) == take(straight, 6 * batch_size)[5 * batch_size :]
    assert again.state_dict() == straight.state_dict()


@given(streams())
@settings(deadline=None)
def test_any_run_of_a_batch_size_meets_whole_quotas_and_nearly_meets_others(drawn):
    task_ids, _, batch_size, build = drawn
    stream = build()
    indices = take(stream, 6 * batch_size)
    for start in range(5 * batch_size):
        counted = tasks_of(task_ids, indices[start : start + batch_size])
        for task, quota in stream.exact.items():
            least = math.floor(quota)
            most = least if quota == least else least + 2
            assert least <= counted[task] <= most


def test_a_saved_state_does_not_move_with_the_stream():
    stream = TaskBalancedStream(rows(a=5, b=9), 4)
    take(stream, 6)
    saved = stream.state_dict()
    frozen = json.dumps(saved)
    take(stream, 50)
    assert json.dumps(saved) == frozen


def test_a_state_holds_no_more_indices_than_a_batch():
    stream = TaskBalancedStream(rows(a=3000, b=2000, c=40), 64, weights="uniform")
    take(stream, 20_000)
    state = stream.state_dict()
    assert sum(len(visits["before"]) for visits in state["visits"]) <= 64
    assert len(json.dumps(state)) < 2000


def test_seeds_differ_and_the_same_seed_repeats():
    task_ids = rows(a=50, b=70)
    drawn = [take(TaskBalancedStream(task_ids, 8, seed=seed), 64) for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2]
    # The order of a task's prompts differs, and so do the places of the tasks in a batch.
    a, b = ([index for index in indices if task_ids[index] == "a"] for indices in drawn[:2])
    assert a != b
    assert [task_ids[i] for i in drawn[0]] != [task_ids[i] for i in drawn[1]]


def test_every_pass_has_its_own_order_and_so_has_every_task():
    task_ids = ["a"] * 30 + ["b"] * 30
    indices = take(TaskBalancedStream(task_ids, 2, seed=3), 120)
    a = [index for index in indices if index < 30]
    b = [index - 30 for index in indices if index >= 30]
    assert a[:30] != a[30:]
    assert a[:30] != b[:30]


def test_orders_are_uniform_at_the_start_of_a_pass():
    # 3 prompts, no gap: each of the 6 orders in about 100 of 600 passes. The spread is
    # sqrt(600·1/6·5/6) = 9.1, so 50 away is more than 5 spreads.
    stream = TaskBalancedStream(["a"] * 3, 1)
    orders = Counter(tuple(take(stream, 3)) for _ in range(600))
    assert len(orders) == 6
    assert all(50 < count < 150 for count in orders.values())


def test_the_tasks_of_a_batch_are_mixed():
    task_ids = ["a"] * 40 + ["b"] * 40
    batch = take(TaskBalancedStream(task_ids, 16), 16)
    changes = sum((x < 40) != (y < 40) for x, y in pairwise(batch))
    assert changes > 1  # one after another would change once


def test_without_shuffling_the_order_is_that_of_the_data_set():
    stream = TaskBalancedStream(["a", "b", "a", "b", "a"], 2, shuffle=False)
    assert take(stream, 8) == [0, 1, 2, 3, 4, 1, 0, 3]


def test_the_global_generator_is_neither_used_nor_moved():
    random.seed(5)
    before = random.getstate()
    first = take(TaskBalancedStream(rows(a=9, b=9), 4, seed=1), 40)
    assert random.getstate() == before
    random.seed(6)
    assert take(TaskBalancedStream(rows(a=9, b=9), 4, seed=1), 40) == first


def test_the_order_is_the_same_in_another_process_whatever_the_hash_seed():
    code = (
        "from verl_ext.sampling.stream import TaskBalancedStream\n"
        "s = TaskBalancedStream(['a', 'b', 'c'] * 7, 6, seed=4)\n"
        "print([s.draw() for _ in range(60)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(printed) == 1


def test_a_small_task_gives_all_it_has_to_every_batch():
    task_ids = rows(small=3, large=100)
    stream = TaskBalancedStream(task_ids, 16, weights={"small": 0.5, "large": 0.5})
    assert stream.exact == {"small": 3, "large": 13}
    assert stream.shares == {"small": Fraction(1, 2), "large": Fraction(1, 2)}
    for _ in range(20):
        assert tasks_of(task_ids, take(stream, 16)) == {"small": 3, "large": 13}


def test_a_task_of_weight_zero_is_left_out():
    task_ids = rows(a=9, b=9)
    stream = TaskBalancedStream(task_ids, 4, weights={"a": 1, "b": 0})
    assert set(tasks_of(task_ids, take(stream, 40))) == {"a"}


def test_tasks_may_be_any_hashables():
    task_ids = [1, (2, "x"), 1, (2, "x")]
    assert tasks_of(task_ids, take(TaskBalancedStream(task_ids, 2), 2)) == {1: 1, (2, "x"): 1}


# --- epochs ---------------------------------------------------------------------------------------


def test_an_epoch_is_as_many_whole_batches_as_the_data_set_could_fill():
    stream = TaskBalancedStream(rows(a=10, b=13), 4)  # 23 rows: 5 batches
    assert len(stream) == 20
    assert [len(list(stream)) for _ in range(3)] == [20, 20, 20]


def test_epochs_run_on_where_the_last_one_stopped():
    task_ids = rows(a=10, b=13)
    stream = TaskBalancedStream(task_ids, 4)
    assert [*stream, *stream, *stream] == take(TaskBalancedStream(task_ids, 4), 60)


def test_an_epoch_left_in_the_middle_is_finished_by_the_next_iterator():
    stream = TaskBalancedStream(rows(a=10, b=13), 4)
    start = list(islice(stream, 7))
    assert start + list(stream) == take(TaskBalancedStream(rows(a=10, b=13), 4), 20)


def test_making_an_iterator_draws_nothing():
    stream = TaskBalancedStream(rows(a=10, b=13), 4)
    before = stream.state_dict()
    iter(stream)
    assert stream.state_dict() == before


# --- filters --------------------------------------------------------------------------------------


@given(streams(), st.integers(0, 99))
@settings(deadline=None)
def test_a_batch_whose_dropped_prompts_are_replaced_by_their_task_meets_its_quota(drawn, seed):
    task_ids, quota_stream, batch_size, build = drawn
    stream, rng = build(), random.Random(seed)
    for quota in islice(quota_stream, 15):
        trained = []
        for index in take(stream, batch_size):
            while rng.random() < 0.4:
                index = stream.next_of(task_ids[index])
            trained.append(index)
        assert tasks_of(task_ids, trained) == Counter(quota)


def test_replacements_continue_the_pass_of_their_task():
    task_ids = ["a"] * 6 + ["b"] * 6
    stream = TaskBalancedStream(task_ids, 4)
    drawn = take(stream, 4) + [stream.next_of("a") for _ in range(4)]
    assert sorted(index for index in drawn if index < 6) == [0, 1, 2, 3, 4, 5]


def test_a_replacement_from_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task 'maht'; did you mean 'math'"):
        TaskBalancedStream(rows(math=5, code=5), 4).next_of("maht")


def test_a_batch_is_selected_by_quota_and_not_by_arrival():
    ready = ["a", "a", "a", "b", "a", "b"]
    assert select({"a": 2, "b": 2}, ready) == ([0, 1, 3, 5], {})
    assert select({"a": 2, "b": 2}, ready[:4]) == ([0, 1, 3], {"b": 1})
    assert select({"a": 0, "b": 1}, ["c", "a"]) == ([], {"b": 1})


# --- states of other streams ----------------------------------------------------------------------

MIXED = rows(a=9, b=9)
assert MIXED[0] == "b"  # the first task of the messages
OURS = {"batch_size": 4, "weights": {"a": 0.5, "b": 0.5}, "seed": 1}


@pytest.mark.parametrize(
    ("task_ids", "change", "message"),
    [
        (MIXED, {"batch_size": 8}, "another stream's: batch_size was 4, is 8$"),
        (MIXED, {"seed": 2}, "another stream's: seed was 1, is 2$"),
        (MIXED, {"shuffle": False}, "another stream's: shuffle was True, is False$"),
        (
            MIXED,
            {"weights": {"a": 0.25, "b": 0.75}},
            r"weights was \{'b': '1/2', 'a': '1/2'\}, is \{'b': '3/4', 'a': '1/4'\}$",
        ),
        (rows(a=9, b=10), {}, "task_ids was 18 rows of sha256 [0-9a-f]+, is 19 rows of"),
        (MIXED[::-1], {}, "task_ids was 18 rows of sha256 [0-9a-f]+, is 18 rows of"),
        (MIXED, {"seed": 2, "batch_size": 2}, "batch_size was 4, is 2; seed was 1, is 2$"),
    ],
)
def test_the_state_of_another_stream_is_refused_with_the_difference(task_ids, change, message):
    state = TaskBalancedStream(MIXED, **OURS).state_dict()
    other = TaskBalancedStream(task_ids, **OURS | change)
    before = other.state_dict()
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(json.loads(json.dumps(state)))
    assert other.state_dict() == before


def test_weights_given_as_words_and_as_numbers_are_the_same_stream():
    task_ids = rows(a=9, b=9)
    state = TaskBalancedStream(task_ids, 4, weights="uniform").state_dict()
    TaskBalancedStream(task_ids, 4, weights={"b": 0.5, "a": 0.5}).load_state_dict(state)


def test_a_state_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"not the state of a task-balanced stream: \['yielded'\]"):
        TaskBalancedStream(rows(a=9, b=9), 4).load_state_dict({"yielded": 3})
