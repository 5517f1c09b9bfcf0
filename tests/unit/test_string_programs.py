"""Random string programs: the tree, the stream of programs, the prompts."""

import hashlib
import os
import random
import subprocess
import sys
from itertools import islice

import pytest

from verl_ext.reward_fns.string_composition import apply
from verl_ext.reward_fns.string_functions import FUNCTIONS
from verl_ext.toy.string_expressions import (
    Call,
    Concat,
    Input,
    Interlace,
    Literal,
    Method,
    TooLong,
    depth,
    evaluate,
    function_ids,
    nodes,
    source,
)
from verl_ext.toy.string_programs import (
    EVAL_FUNCTIONS,
    TRAIN_FUNCTIONS,
    Program,
    ProgramOptions,
    function_sets,
    programs,
)
from verl_ext.toy.string_prompts import program_text, prompt

NESTED = Call(13, Concat(Call(17, Input()), Interlace(20, Literal("ab"), Input())), ("-",))


def test_tree_is_written_evaluated_and_measured():
    assert source(NESTED) == "func_13((func_17(x) + func_20('ab', x)), '-')"
    # reverse "xyz" -> "zyx"; interlace "ab" with "xyz" -> "axbyz"; joined by "-"
    assert evaluate(NESTED, "xyz") == "-".join("zyxaxbyz")
    assert depth(NESTED) == 3
    assert function_ids(NESTED) == {13, 17, 20}
    assert source(Method("upper", Input())) == "(x).upper()"
    assert evaluate(Method("swapcase", Literal("ab")), "q") == "AB"


def test_python_runs_the_shown_program_to_the_same_result():
    for functions in function_sets().values():
        for level in (1, 2, 3, 4):
            stream = programs(random.Random(7), level, functions, options=ProgramOptions())
            for program in islice(stream, 60):
                scope = {}
                exec(program_text(program, definitions="used"), scope)
                assert scope["main_solution"](program.text) == program.output


def test_a_long_value_on_the_way_is_refused_even_if_the_result_is_short():
    shrunk = Call(2, Call(1, Literal("aaaaa"), (4,)))  # 20 vowels, then none
    assert evaluate(shrunk, "", max_length=20) == ""
    with pytest.raises(TooLong, match="20 characters, at most 19"):
        evaluate(shrunk, "", max_length=19)


def test_split_is_the_authors_and_disjoint():
    assert sorted(TRAIN_FUNCTIONS) == [1, 3, 4, 5, 9, 11, 13, 15, 17, 19, 20, 22, 23]
    assert sorted(EVAL_FUNCTIONS) == [0, 2, 6, 7, 8, 10, 12, 14, 16, 18, 21, 24]
    assert not TRAIN_FUNCTIONS & EVAL_FUNCTIONS


def test_avoid_twins_takes_out_exactly_the_twins():
    sets = function_sets(avoid_twins=True)
    assert EVAL_FUNCTIONS - sets["eval"] == {7, 8, 18}
    assert sets["train"] == TRAIN_FUNCTIONS
    for held_out, trained, param in [(18, 1, 3), (8, 19, 2), (7, 20, "xyz")]:
        for text in ("", "a", "hello"):
            assert apply(held_out, text, param) == apply(trained, text, param)


def test_inputs_have_three_to_ten_lowercase_letters():
    stream = programs(random.Random(1), 2, TRAIN_FUNCTIONS, options=ProgramOptions())
    texts = [program.text for program in islice(stream, 4000)]
    assert {len(t) for t in texts} == set(range(3, 11))
    assert all(t.isalpha() and t.islower() for t in texts)


def test_outputs_are_what_the_expression_returns():
    stream = programs(random.Random(1), 5, EVAL_FUNCTIONS, options=ProgramOptions())
    for program in islice(stream, 200):
        assert program.output == evaluate(program.expr, program.text)


def test_require_input_keeps_only_programs_that_mention_x():
    options = ProgramOptions(require_input=True)
    stream = programs(random.Random(1), 2, TRAIN_FUNCTIONS, options=options)
    assert all(Input() in nodes(program.expr) for program in islice(stream, 500))


def test_unique_drops_repeated_expressions_and_its_absence_keeps_them():
    def distinct(unique):
        options = ProgramOptions(unique=unique)
        stream = programs(random.Random(1), 1, TRAIN_FUNCTIONS, options=options)
        return len({program.expr for program in islice(stream, 500)})

    assert distinct(True) == 500
    assert distinct(False) < 400


def test_max_length_bounds_every_program():
    options = ProgramOptions(max_length=30)
    stream = programs(random.Random(1), 6, EVAL_FUNCTIONS, options=options)
    kept = [*islice(stream, 100)]
    assert max(len(program.output) for program in kept) <= 30
    free = programs(random.Random(1), 6, EVAL_FUNCTIONS, options=ProgramOptions(max_length=None))
    assert max(len(program.output) for program in islice(free, 100)) > 30
    with pytest.raises(ValueError, match="max_length must be >= 1 or None, got 0"):
        ProgramOptions(max_length=0)


def test_a_result_may_be_empty():
    # Function 2 of three vowels is "". Per draw: 0.39 it is 2, 1/2 a literal, 1/4 of three
    # letters, (5/26)**3 all vowels: 3.5e-4, so that 40,000 draws have about 14.
    options = ProgramOptions(unique=False)
    stream = programs(random.Random(5), 1, {2, 8}, options=options)
    assert any(program.output == "" for program in islice(stream, 40_000))


def test_taken_problems_are_not_drawn_but_their_expression_is_with_another_input():
    options = ProgramOptions()
    first = [*islice(programs(random.Random(1), 1, TRAIN_FUNCTIONS, options=options), 300)]
    taken = {program.problem for program in first}
    again = programs(random.Random(1), 1, TRAIN_FUNCTIONS, options=options, taken=taken)
    second = [*islice(again, 300)]
    assert not taken & {program.problem for program in second}
    reused = {p.expr for p in first} & {p.expr for p in second}
    assert reused
    assert all(Input() in nodes(expr) for expr in reused)


def test_used_up_level_is_an_error_that_says_so():
    options = ProgramOptions(max_length=1)  # no input has fewer than 3 letters
    with pytest.raises(ValueError, match="no new program at level 1 in 10000 draws"):
        next(programs(random.Random(1), 1, TRAIN_FUNCTIONS, options=options))


def test_same_seed_gives_the_same_programs_whatever_pythonhashseed():
    code = (
        "import random\n"
        "from itertools import islice\n"
        "from verl_ext.toy.string_programs import *\n"
        "from verl_ext.toy.string_prompts import prompt\n"
        "for name, functions in function_sets().items():\n"
        "    stream = programs(random.Random('3'), 3, functions, options=ProgramOptions())\n"
        "    for p in islice(stream, 50):\n"
        "        print(prompt(p, definitions='used'), p.output)\n"
    )

    def digest(hash_seed):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
        assert len(run.stdout) > 10_000
        return hashlib.sha256(run.stdout).hexdigest()

    assert digest("0") == digest("1") == digest("4242")


def test_stage_2_prompt_shows_names_only():
    program = Program(NESTED, "xyz", "z-y-x-a-x-b-y-z")
    text = prompt(program)
    assert "def main_solution(x):\n    return func_13((func_17(x) + func_20('ab', x)), '-')" in text
    assert text.count("def ") == 1
    assert 'main_solution("xyz")' in text
    assert '{"output": "' in text
    assert program.output not in text


def test_stage_1_prompt_defines_what_is_used_or_all_with_docstrings():
    program = Program(NESTED, "xyz", "z-y-x-a-x-b-y-z")
    used = prompt(program, definitions="used")
    assert used.count("def func_") == 3
    assert FUNCTIONS[17].__doc__ in used
    everything = prompt(program, definitions="all")
    assert all(f"def func_{k}(" in everything for k in range(25))
    assert all(function.__doc__ in everything for function in FUNCTIONS.values())
    with pytest.raises(ValueError, match="definitions must be one of"):
        prompt(program, definitions="some")
