"""A stream that is stopped and resumed, and the states of other streams."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.task_mixtures import rows, streams, take

from verl_ext.sampling.stream import TaskBalancedStream


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
