"""What the model is shown before it answers freely: what is right, forgotten or slipped in it."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, islice, product

import pytest
from unit.free_form_words import RECIPE, TASK, some, written

from verl_ext.toy.demonstrations import WarmupSpec, prompts_and_responses
from verl_ext.toy.free_form import WORDINGS, parsed, reference, word_of
from verl_ext.toy.task import Problem, compositions, run, split_of
from verl_ext.toy.variants import BASE, VARIANTS

FREE = replace(RECIPE.tuning[-1], careful_share=0.0, single_share=0.0, slip_share=0.0)


def shown(count=2000, **warmup):
    spec = replace(FREE, **warmup)
    problems = {}
    for source in ("toy", "toy_single"):
        for skills in compositions(source):
            for letters in (*product("abcdef", repeat=2), *product("abcdef", repeat=3)):
                problem = Problem(skills, "".join(letters))
                problems[problem.prompt] = problem
    rows = islice(prompts_and_responses(TASK, spec), count)
    return [(problems[prompt], parsed(response)) for prompt, response in rows]


def test_careful_demonstrations_reason_and_answer_right():
    for problem, response in shown(careless_share=0.0, single_share=0.3):
        assert split_of(problem.prompt) == "warmup"
        assert response.reasoning == run(problem.skills[:-1], problem.word)
        assert word_of(response.answer) == problem.answer


def test_careless_ones_forget_the_inner_function_and_answer_accordingly():
    forgot = 0
    for problem, response in shown(careless_share=0.5):
        inner = run(problem.skills[:1], problem.word)
        assert response.reasoning in (inner, problem.word)
        assert word_of(response.answer) == run(problem.skills[1:], response.reasoning)
        forgot += response.reasoning != inner
    assert 0.3 < forgot / 2000 < 0.5  # of half of them; it does not always show


def test_slips_are_in_the_reasoning_of_pairs_and_the_answer_follows_them():
    letters = changed = 0
    for problem, response in shown(careless_share=0.0, slip_share=0.5, single_share=0.3):
        inner = run(problem.skills[:-1], problem.word)
        assert word_of(response.answer) == run(problem.skills[-1:], response.reasoning)
        assert len(response.reasoning) == len(inner)
        if len(problem.skills) == 1:
            assert response.reasoning == inner
        else:
            letters += len(inner)
            changed += sum(a != b for a, b in zip(response.reasoning, inner, strict=True))
    expected = 0.5 * 5 / 6
    assert abs(changed / letters - expected) < 4 * (expected * (1 - expected) / letters) ** 0.5


def test_carelessness_begins_after_the_careful_share():
    rows = shown(400, steps=100, batch_size=4, careful_share=0.75, careless_share=1.0)
    right_ones = [word_of(response.answer) == problem.answer for problem, response in rows]
    assert all(right_ones[:300])
    assert not all(right_ones[300:])


def test_the_wording_of_a_demonstration_is_independent_of_the_prompts():
    pairs = Counter()
    for problem, response in shown(careless_share=0.0):
        texts = written(problem.answer)
        pairs[texts.index(response.answer), texts.index(reference(problem))] += 1
    for place in product(range(len(WORDINGS)), repeat=2):
        share = 1 / len(WORDINGS) ** 2
        assert abs(pairs[place] / 2000 - share) < 5 * (share * (1 - share) / 2000) ** 0.5


def test_hints_have_no_place_in_free_form():
    with pytest.raises(ValueError, match=r"hinted_share must be 0 in free form, got 0\.5"):
        prompts_and_responses(TASK, replace(FREE, hinted_share=0.5))


def test_the_splits_share_no_prompt():
    prompts = [
        {problem.prompt for problem in some("toy", split, 2000)}
        for split in ("warmup", "train", "validation")
    ]
    assert not any(left & others for left, others in combinations(prompts, 2))


def test_free_form_is_off_unless_asked_for():
    assert not WarmupSpec().free_form
    rows = list(islice(prompts_and_responses(TASK, WarmupSpec()), 50))
    assert all(set(response) <= set("abcdef") for _, response in rows)
    assert not any(recipe.free_form for name, recipe in VARIANTS.items() if name != "rlpr")


def test_the_model_is_the_bases_before_it_learns_to_reason():
    assert (RECIPE.task, RECIPE.model, RECIPE.warmup) == (BASE.task, BASE.model, BASE.warmup)
    assert RECIPE.free_form
    assert len(RECIPE.tuning) == 1
    assert RECIPE.tuning[0].seed != BASE.warmup.seed  # other demonstrations than the warm-up's
