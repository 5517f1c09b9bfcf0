"""A stream of prompts that gives every batch its quotas: passes, orders, epochs, replacements."""

import math
import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.task_mixtures import rows, streams, take, tasks_of

from verl_ext.sampling.stream import TaskBalancedStream


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


def test_without_shuffling_a_batch_goes_task_by_task_and_ends_in_those_whose_turn_it_is():
    stream = TaskBalancedStream(list("abc") * 9, 8, shuffle=False)  # 2 2/3 of each
    batch = take(stream, 8)
    assert "".join("abc"[index % 3] for index in batch) == "aabbccab"


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


# --- refusals -------------------------------------------------------------------------------------


def test_a_data_set_smaller_than_a_batch_is_refused_by_the_stream_too():
    with pytest.raises(ValueError, match="batch_size 16 is more than the 7 prompts"):
        TaskBalancedStream(rows(a=3, b=4), 16)


def test_a_row_without_a_task_is_refused():
    with pytest.raises(ValueError, match="row 1 of the data set has no task"):
        TaskBalancedStream(["a", None], 1)


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="the data set is empty"):
        TaskBalancedStream([], 1)
