"""What batches owe: the queue of draws, and replacements of the same task."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.sampling.ledger import Ledger
from verl_ext.sampling.quota import select

TASKS = ["a", "b", "c"]


def ledger(drawn):
    """With one prompt per letter, named after its task and place: a0, b1, …"""
    made = Ledger(TASKS)
    names = [f"{task}{place}" for place, task in enumerate(drawn)]
    made.draw(names, list(drawn), refill=False)
    return made, names


@given(st.text("abc", max_size=12), st.integers(0, 2**16), st.text("abc", max_size=4))
def test_n_prompts_count_exactly_if_the_next_n_places_can_be_met(drawn, seed, refills):
    made, names = ledger(drawn)
    names += [f"r{place}" for place in range(len(refills))]
    made.draw([f"r{place}" for place in range(len(refills))], list(refills), refill=True)
    rng = random.Random(seed)
    ready = rng.sample(names, rng.randint(0, len(names)))
    counted = made.countable(ready)
    tasks = [made.live[uid] for uid in ready]
    for size in range(len(drawn) + 1):
        _, missing = select(Counter(drawn[:size]), tasks)
        assert (len(counted) >= size) == (not missing)
        if not missing:
            due = made.due(ready, size)
            assert set(due) <= set(counted)
            assert Counter(made.live[uid] for uid in due) == Counter(drawn[:size])


def test_a_gap_in_the_queue_hides_what_is_behind_it():
    made, _ = ledger("abcab")
    assert made.countable(["b1", "c2", "a3"]) == ["b1", "c2", "a3"]  # a3 may stand in for a0
    assert made.countable(["b1", "c2"]) == []
    assert made.countable(["a0", "b1", "b4"]) == ["a0", "b1"]


def test_surplus_counts_only_when_all_that_is_owed_is_there():
    made, _ = ledger("ab")
    made.draw(["spare"], ["a"], refill=True)
    assert made.countable(["a0", "spare"]) == ["a0"]
    assert made.countable(["spare", "a0", "b1"]) == ["spare", "a0", "b1"]
    assert made.due(["spare", "a0", "b1"], 2) == ["spare", "b1"]


def test_replacements_have_the_tasks_that_were_dropped():
    made, _ = ledger("abcabc")
    assert sorted(made.drop(["b1", "b4", "c2"])) == ["b", "b", "c"]
    assert made.dropped == {"b": 2, "c": 1}
    assert made.replacements(3) == ["b", "c", "b"]  # in the order of the queue


def test_what_is_owed_comes_before_a_second_of_a_task_that_is_not():
    made, _ = ledger("abbc")
    made.drop(["b1", "c3"])
    assert made.replacements(1) == ["b"]
    assert made.replacements(2) == ["b", "c"]  # b2 still meets the other b
    made.drop(["b2"])
    assert made.replacements(3) == ["b", "b", "c"]


def test_speculative_replacements_mirror_what_was_dropped():
    made, _ = ledger("abcabc")
    made.drop(["b1", "b4", "c2"])
    # Each drop is worth two refills: 4 of b and 2 of c.
    assert Counter(made.replacements(6)) == {"b": 4, "c": 2}
    made.draw(["r0", "r1", "r2"], made.replacements(3), refill=True)
    assert Counter(made.replacements(3)) == {"b": 2, "c": 1}
    made.draw(["r3", "r4", "r5"], made.replacements(3), refill=True)
    assert made.replacements(3) == TASKS, "nothing is left to replace: all tasks in turn"


def test_a_batch_is_a_new_account_of_drops():
    made, _ = ledger("aabb")
    made.drop(["b2"])
    made.draw(["b9"], ["b"], refill=True)
    assert made.take(["a1", "a0"]) == ["a", "a"]
    assert made.dropped == {}
    assert made.live == {"b3": "b", "b9": "b"}
    assert made.take(["b9", "b3"]) == ["b", "b"]
    assert made.state_dict() == {"queue": [], "live": []}


@pytest.mark.parametrize("anew", [True, False])
def test_after_a_batch_or_a_state_replacements_forget_what_was_before(anew):
    made, _ = ledger("abab")
    made.drop(["a0"])
    made.draw(["a4", "a5"], ["a", "a"], refill=True)
    if anew:
        made.load_state_dict(made.state_dict())
    else:
        made.take(["b1", "a4"])
    assert made.dropped == {}
    assert made.replacements(3) == TASKS


def test_a_batch_of_other_tasks_is_refused_and_nothing_is_taken():
    made, names = ledger("abc")
    with pytest.raises(ValueError, match=r"owes \{'a': 1, 'b': 1\} and was given .*'c': 1"):
        made.take(["a0", "c2"])
    assert list(made.live) == names


def test_the_state_is_plain_and_continues():
    made, _ = ledger("abcab")
    made.take(["b1", "a3"])
    state = json.loads(json.dumps(made.state_dict()))
    assert state == {"queue": ["c", "a", "b"], "live": [["a0", "a"], ["c2", "c"], ["b4", "b"]]}
    other = Ledger(TASKS)
    other.load_state_dict(state)
    assert other.state_dict() == made.state_dict()
    assert other.take(["b4", "a0", "c2"]) == ["b", "a", "c"]
    assert state["queue"] == ["c", "a", "b"], "the loaded state is not the ledger's own"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made: made.draw(["x"], ["d"], refill=False), "no prompts of task 'd'"),
        (lambda made: made.draw(["x"], [], refill=False), "1 uids for 0 tasks"),
        (lambda made: made.drop(["x"]), "'x' was never drawn"),
        (lambda made: made.take(["x"]), "'x' was never drawn"),
        (lambda made: made.load_state_dict({"queue": []}), "not the state of a ledger"),
        (lambda made: made.load_state_dict({"queue": ["d"], "live": []}), "no prompts of task 'd'"),
    ],
)
def test_what_does_not_belong_is_refused(call, message):
    made, _ = ledger("abc")
    before = made.state_dict()
    with pytest.raises(ValueError, match=message):
        call(made)
    assert made.state_dict() == before
