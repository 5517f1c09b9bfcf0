"""The toy's problems: what is trained, what is held out, and which split a prompt belongs to."""

import random
from itertools import islice

import pytest
from unit.hash_seeds import same_output

from verl_ext.toy.task import (
    DATA_SOURCES,
    DOMAINS,
    OUTER,
    SKILLS,
    Problem,
    TaskSpec,
    compositions,
    distinct,
    held_out_pairs,
    run,
    split_of,
    stream,
)


def some(data_source, split, count=200, seed=0):
    return list(islice(stream(TaskSpec(), data_source, split, random.Random(seed)), count))


def test_the_inner_function_runs_first_and_stands_last():
    # reverse(fab) = baf, then doubled; the other order gives the same letters, mirrored apart
    problem = Problem((17, 14), "fab")
    assert problem.prompt == "f14(f17(fab))="
    assert problem.answer == "bbaaff"
    # rotate then reverse differs from reverse then rotate: fab -> abf -> fba, fab -> baf -> afb
    assert Problem((8, 17), "fab").answer == "fba"
    assert Problem((17, 8), "fab").answer == "afb"


def test_an_unknown_function_is_refused_by_name():
    with pytest.raises(ValueError, match=r"func id must be one of .* got 99"):
        run((99,), "fab")


def test_trained_and_held_out_pairs_part_the_table():
    trained, held_out = set(compositions("toy")), held_out_pairs()
    assert not trained & held_out
    assert len(trained | held_out) == len(SKILLS) ** 2
    for place in (0, 1):  # every function is trained and held out, as inner and as outer
        assert {pair[place] for pair in trained} == set(SKILLS)
        assert {pair[place] for pair in held_out} == set(SKILLS)


def test_triples_are_made_of_trained_pairs():
    held_out = held_out_pairs()
    for first, second, third in compositions("toy_level_3"):
        assert (first, second) not in held_out
        assert (second, third) not in held_out


def test_the_three_tasks_part_the_trained_pairs_by_their_outer_function():
    parts = [compositions(task) for task in OUTER]
    assert sorted(pair for part in parts for pair in part) == compositions("toy")
    assert [len(part) for part in parts] == [20, 5, 5]
    for task, pairs in zip(OUTER, parts, strict=True):
        assert {outer for _, outer in pairs} == set(OUTER[task])


def test_the_two_domains_halve_the_trained_pairs_by_their_outer_function():
    left, right = (compositions(domain) for domain in DOMAINS)
    assert not set(left) & set(right)
    assert sorted(left + right) == compositions("toy")
    assert len(left) == len(right) == 15
    assert {outer for _, outer in left}.isdisjoint(outer for _, outer in right)
    for pairs in (left, right):  # every function is an inner one in both
        assert {inner for inner, _ in pairs} == set(SKILLS)


def test_an_unknown_data_source_is_refused():
    with pytest.raises(ValueError, match="data_source must be one of"):
        compositions("toy_heldout")


@pytest.mark.parametrize("data_source", ["toy_held_out", "toy_level_3"])
@pytest.mark.parametrize("split", ["warmup", "train"])
def test_held_out_compositions_are_never_trained_on(data_source, split):
    with pytest.raises(ValueError, match="for validation only"):
        some(data_source, split)


def test_a_prompt_belongs_to_one_split():
    prompts = {
        split: {problem.prompt for problem in some("toy", split, 2000)}
        for split in ("warmup", "train", "validation")
    }
    assert not prompts["warmup"] & prompts["train"]
    assert not prompts["warmup"] & prompts["validation"]
    assert not prompts["train"] & prompts["validation"]
    for split, members in prompts.items():
        assert {split_of(prompt) for prompt in members} == {split}


@pytest.mark.parametrize("data_source", DATA_SOURCES)
def test_every_problem_keeps_to_the_spec(data_source):
    spec = TaskSpec()
    for problem in some(data_source, "validation"):
        assert spec.min_length <= len(problem.word) <= spec.max_length
        assert set(problem.word) <= set(spec.alphabet)
        assert 1 <= len(problem.answer) <= spec.max_answer
        assert problem.skills in compositions(data_source)


def test_too_small_a_task_is_refused_rather_than_repeated():
    tiny = TaskSpec(alphabet="a", min_length=2, max_length=2)
    with pytest.raises(ValueError, match="different problems"):
        distinct(stream(tiny, "toy_single", "warmup", random.Random(0)), 1000)


def test_the_problems_do_not_depend_on_the_hash_seed():
    code = (
        "import random; from itertools import islice; from verl_ext.toy.task import *;"
        "rng = random.Random(5);"
        "print([p.prompt for p in islice(stream(TaskSpec(), 'toy', 'train', rng), 50)])"
    )
    assert same_output(code)
