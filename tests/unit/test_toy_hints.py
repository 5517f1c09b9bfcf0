"""Demonstrations with hints: who gets one, what it says, and what stands behind it."""

import random
from itertools import islice

import pytest

from verl_ext.self_teaching.texts import Texts
from verl_ext.toy.demonstrations import WarmupSpec, demonstrations
from verl_ext.toy.feedback import feedback
from verl_ext.toy.hints import TEXTS, hinted, with_hints
from verl_ext.toy.task import Problem, TaskSpec

PROBLEM = Problem((9, 3), "cab")  # mirror, then sort: aabbcc


def shown(share, count=400, **warmup):
    data = demonstrations(TaskSpec(), WarmupSpec(careful_share=0.0, careless_share=0.6, **warmup))
    return list(islice(with_hints(data, share, "abcdef", 0), count))


def test_the_words_are_a_teacher_prompts():
    assert Texts(**TEXTS).solution == TEXTS["solution"]


def test_without_a_share_demonstrations_stay_as_they_are():
    data = demonstrations(TaskSpec(), WarmupSpec(careful_share=0.0, careless_share=0.6))
    assert shown(0.0) == [(problem.prompt, answer) for problem, answer in islice(data, 400)]


def test_single_functions_have_no_hints():
    assert all("\n" not in prompt for prompt, _ in shown(1.0, single_share=1.0, count=50))


def test_about_the_share_of_the_pairs_has_one():
    prompts = [prompt for prompt, _ in shown(0.25, single_share=0.0, count=2000)]
    assert sum("\n" in prompt for prompt in prompts) / 2000 == pytest.approx(0.25, abs=0.03)


def test_with_a_hint_the_answer_is_right_and_a_solution_is_that_answer():
    solutions = feedbacks = 0
    for prompt, answer in shown(1.0, single_share=0.0):
        question, hint, instruction = prompt.split("\n\n")
        assert instruction == TEXTS["instruction"]
        solutions += hint == f"={answer}"
        if hint.startswith("?"):
            feedbacks += 1
            assert hint != "?"
        assert question.startswith("f")
    assert solutions + feedbacks == 400
    assert min(solutions, feedbacks) > 100


def test_feedback_is_on_the_answer_that_was_demonstrated_wrong():
    rng = random.Random(0)
    hints = {hinted(PROBLEM, "bac", "abc", rng).split("\n\n")[1] for _ in range(50)}
    assert hints == {f"={PROBLEM.answer}", f"?{feedback('bac', PROBLEM.answer)}"}


def test_a_right_answer_slips_before_it_is_told_what_is_wrong():
    rng = random.Random(0)
    hints = {hinted(PROBLEM, PROBLEM.answer, "abcdef", rng).split("\n\n")[1] for _ in range(50)}
    assert f"={PROBLEM.answer}" in hints
    assert len(hints) > 3  # solution, and feedback on one slip or another
