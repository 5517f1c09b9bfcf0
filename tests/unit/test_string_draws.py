"""Random string expressions: every kind of node as often as the authors draw it."""

import math
import random
from collections import Counter

import pytest

from verl_ext.toy.string_expressions import (
    Call,
    Input,
    Interlace,
    Literal,
    Method,
    depth,
    function_ids,
    nodes,
)
from verl_ext.toy.string_programs import TRAIN_FUNCTIONS, function_sets, random_expr

DRAWS = 20_000


def sample(level, functions, count=DRAWS, seed="fixed"):
    rng = random.Random(seed)
    return [random_expr(rng, level, functions) for _ in range(count)]


def assert_share(count, total, probability):
    """Five standard deviations: a right generator fails once in 1.7 million seeds."""
    spread = math.sqrt(total * probability * (1 - probability))
    assert abs(count - total * probability) < 5 * spread


def kinds(exprs):
    return Counter(type(e).__name__ for e in exprs)


@pytest.mark.parametrize("name", ["train", "eval", "all"])
@pytest.mark.parametrize("level", [0, 1, 2, 5, 8])
def test_every_branch_has_the_depth_of_the_level_and_functions_of_the_set(name, level):
    functions = function_sets()[name]

    def leaf_depths(expr, above=0):
        inner = [getattr(expr, f) for f in ("arg", "left", "right") if hasattr(expr, f)]
        return {above} if not inner else set().union(*(leaf_depths(e, above + 1) for e in inner))

    for expr in sample(level, functions, 100):
        assert leaf_depths(expr) == {level}
        assert depth(expr) == level
        assert function_ids(expr) <= functions


def test_leaves_are_half_input_and_half_literals_of_three_to_six_letters():
    leaves = sample(0, TRAIN_FUNCTIONS)
    assert_share(kinds(leaves)["Input"], DRAWS, 0.5)
    literals = [e.text for e in leaves if isinstance(e, Literal)]
    for length in (3, 4, 5, 6):
        assert_share(sum(len(t) == length for t in literals), len(literals), 0.25)
    letters = Counter("".join(literals))
    assert set(letters) == set("abcdefghijklmnopqrstuvwxyz")
    for count in letters.values():
        assert_share(count, letters.total(), 1 / 26)


@pytest.mark.parametrize("name", ["train", "eval", "all"])
def test_node_kinds_have_the_authors_probabilities(name):
    functions = function_sets()[name]
    exprs = sample(1, functions)
    count = kinds(exprs)
    assert_share(count["Concat"], DRAWS, 0.2 * 0.5)
    assert_share(count["Interlace"], DRAWS, 0.2 * 0.5)
    assert_share(count["Method"], DRAWS, 0.8 * 0.02)
    assert_share(count["Call"], DRAWS, 0.8 * 0.98)
    calls = Counter(e.func_id for e in exprs if isinstance(e, Call))
    bare = {k for k in functions if k in {0, 2, 3, 4, 9, 10, 12, 14, 15, 16, 17, 21, 22}}
    with_parameter = functions - bare - {7, 20}
    assert set(calls) == bare | with_parameter
    for func_id, seen in calls.items():
        group = bare if func_id in bare else with_parameter
        assert_share(seen, calls.total(), 0.5 / len(group))


def test_parameters_are_uniform_over_the_authors_ranges():
    ranges = {1: (2, 4), 18: (2, 4), 8: (1, 3), 19: (1, 3), 23: (1, 3), 24: (1, 3), 11: (1, 5)}
    calls = [e for e in sample(1, range(25), 60_000) if isinstance(e, Call)]
    for func_id, (low, high) in ranges.items():
        drawn = Counter(e.params for e in calls if e.func_id == func_id)
        assert set(drawn) == {(n,) for n in range(low, high + 1)}
        for seen in drawn.values():
            assert_share(seen, drawn.total(), 1 / (high - low + 1))
    separators = Counter(e.params for e in calls if e.func_id == 13)
    assert set(separators) == {("-",), ("_",), ("|",)}
    for func_id in (5, 6):
        affixes = [e.params[0] for e in calls if e.func_id == func_id]
        assert {len(a) for a in affixes} == {2, 3, 4}
        assert all(a.isalpha() and a.islower() for a in affixes)


def test_methods_are_the_four_of_the_authors():
    drawn = Counter(e.name for e in sample(1, range(25)) if isinstance(e, Method))
    assert set(drawn) == {"upper", "lower", "capitalize", "swapcase"}


def test_interlacing_is_function_7_where_it_is_in_the_set():
    for name, expected in {"train": {20}, "eval": {7}, "all": {7}}.items():
        exprs = sample(1, function_sets()[name], 2000)
        assert {e.func_id for e in exprs if isinstance(e, Interlace)} == expected
    twinless = sample(1, function_sets(avoid_twins=True)["eval"], 2000)
    assert kinds(twinless)["Interlace"] == 0
    assert_share(kinds(twinless)["Concat"], 2000, 0.2)


def test_share_of_programs_that_ignore_their_input_is_what_the_probabilities_say():
    # One leaf: 1/2. Two: 1/4. So level 1: 0.8 / 2 + 0.2 / 4; level 2: the same step once more.
    level_1 = 0.8 * 0.5 + 0.2 * 0.5**2
    level_2 = 0.8 * level_1 + 0.2 * level_1**2
    for level, expected in {1: level_1, 2: level_2}.items():
        ignored = sum(Input() not in nodes(e) for e in sample(level, TRAIN_FUNCTIONS))
        assert_share(ignored, DRAWS, expected)


@pytest.mark.parametrize(
    ("level", "functions", "message"),
    [
        (-1, range(25), "level must be >= 0, got -1"),
        (1, {1, 2, 25}, r"functions must be ids 0 to 24, got \[25\]"),
        (1, {1, 5}, "functions need one of"),
        (1, {0, 2}, "functions need one of"),
    ],
)
def test_impossible_requests_are_refused(level, functions, message):
    with pytest.raises(ValueError, match=message):
        random_expr(random.Random(0), level, functions)
