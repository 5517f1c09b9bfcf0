"""The reference-probability reward and the std filter against RLPR's own, retold slowly."""

import importlib.util
import math
import random
from pathlib import Path

import pytest
import torch

from verl_ext.reward_fns.reference_probability import debias, probability_reward
from verl_ext.reward_fns.repetition import repetition_penalized, repetition_penalty
from verl_ext.reward_fns.response_format import (
    ANSWER_ONLY,
    THINK_ANSWER,
    format_gated,
    format_mixed,
    format_reward,
)
from verl_ext.reward_fns.splice import Outcome, reference_mask, splice, spliced_text
from verl_ext.reward_fns.std_filter import StdFilter

_spec = importlib.util.spec_from_file_location(
    "reference_rlpr", Path(__file__).with_name("rlpr.py")
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

SEEDS = range(10)
TOLERANCE = {"rel": 1e-10, "abs": 1e-10}  # sums in another order, in float64
EOS = "<|im_end|>"
PIECES = ["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "\t", "a", "7", "<", "_", "é"]
FORMATS = [(THINK_ANSWER, True), (ANSWER_ONLY, False)]


def random_response(draw):
    """Mostly near the format: its tags in order, now and then one missing, doubled or moved."""
    pieces = []
    for tag in PIECES[:4]:
        if pieces or draw.random() < 0.5:
            pieces += draw.choices(PIECES[4:], k=draw.randint(0, 3))
        pieces += [tag] * draw.choices([1, 0, 2], weights=[12, 1, 1])[0]
    if draw.random() < 0.1:
        draw.shuffle(pieces)
    return "".join(pieces)


def responses(seed, number=300):
    draw = random.Random(seed)
    return draw, [random_response(draw) for _ in range(number)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reduction", ["mean", "geometric_mean", "product", "mean_log_prob"])
def test_the_score_is_the_authors(reduction, seed):
    draw = random.Random(seed)
    rows = [[draw.uniform(0.01, 1) for _ in range(draw.randint(1, 9))] for _ in range(20)]
    log_probs = torch.full((20, 12), math.nan, dtype=torch.float64)
    mask = torch.zeros(20, 12)
    for row, probabilities in enumerate(rows):
        places = sorted(draw.sample(range(12), len(probabilities)))
        log_probs[row, places] = torch.tensor(probabilities, dtype=torch.float64).log()
        mask[row, places] = 1
    ours = probability_reward(log_probs, mask, reduction=reduction)
    theirs = [reference.reference_score(row, reduction) for row in rows]
    assert ours.tolist() == pytest.approx(theirs, **TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("coefficient", [0.1, 0.0, 0.3, -1])
def test_the_final_reward_is_the_authors(coefficient, seed):
    draw = random.Random(seed)
    scores, bases = ([draw.random() for _ in range(50)] for _ in range(2))
    formats, repeated = ([draw.random() < 0.5 for _ in range(50)] for _ in range(2))
    gained = debias(*(torch.tensor(v, dtype=torch.float64) for v in (scores, bases)))
    if coefficient == -1:
        rewards = format_gated(gained, torch.tensor(formats))
    else:
        rewards = format_mixed(gained, torch.tensor(formats), weight=coefficient)
    penalties = -torch.tensor(repeated, dtype=torch.float64)
    ours = repetition_penalized(rewards, penalties, nonzero_only=True)
    theirs = [
        reference.final_reward(*row, coefficient=coefficient)
        for row in zip(scores, bases, formats, repeated, strict=True)
    ]
    assert ours.tolist() == pytest.approx(theirs, **TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("tags", "with_reasoning"), FORMATS)
def test_the_format_reward_is_the_authors(tags, with_reasoning, seed):
    _, texts = responses(seed)
    ours = [format_reward(text, tags=tags) for text in texts]
    assert ours == [reference.in_format(text, with_reasoning) for text in texts]
    assert 0 < sum(ours) < len(ours)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("tags", "with_reasoning"), FORMATS)
def test_the_splice_is_the_authors(tags, with_reasoning, seed):
    draw, texts = responses(seed)
    wanted = [draw.choice(["7", "a 7", "7\n", " é"]) for _ in texts]
    ours = [splice(t, w, eos=EOS, tags=tags) for t, w in zip(texts, wanted, strict=True)]
    theirs = [
        reference.spliced(t, w, EOS, with_reasoning) for t, w in zip(texts, wanted, strict=True)
    ]
    assert ours == theirs
    assert None in ours
    assert any(ours)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_tokens_of_the_reference_are_the_authors(seed):
    draw, texts = responses(seed)
    scored = 0
    for response in texts:
        wanted = draw.choice(["7", "a 7", "7\n", " é"])
        result = spliced_text(response, wanted, eos=EOS)
        if result.outcome is not Outcome.OK:
            continue
        scored += 1
        text = result.text
        cuts = sorted(draw.sample(range(1, len(text)), draw.randint(1, len(text) - 1)))
        offsets = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
        ours = [i for i, own in enumerate(reference_mask(offsets, result.span)) if own]
        assert ours == reference.reference_tokens(text, wanted, EOS, offsets)
    assert scored > 50


@pytest.mark.parametrize("seed", SEEDS)
def test_the_repetition_penalty_is_the_authors(seed):
    draw, found = random.Random(seed), set()
    for _ in range(20):
        line = [str(draw.randrange(5)) for _ in range(draw.randint(1, 12))]
        response = draw.choice([" ", "_", "\n"]).join(line * draw.randint(1, 20))
        ours = repetition_penalty(response)
        assert ours == -float(reference.is_repetitive(response))
        found.add(ours)
    assert found == {0, -1}


def test_deviates_from_the_authors_in_a_line_of_blanks_to_fill_in():
    assert reference.is_repetitive("Name: " + "_" * 40)
    assert repetition_penalty("Name: " + "_" * 40) == 0


def random_steps(draw, number):
    """Prompts of unequal size and three tasks, their spread falling with the steps."""
    steps = []
    for step in range(number):
        prompts = {}
        for prompt in range(8):
            spread = draw.choice([0, 0.1, 1]) / (1 + step / 10)
            rewards = [spread * draw.random() for _ in range(draw.randint(1, 6))]
            prompts[f"{step}-{prompt}"] = (draw.choice("xyz"), rewards)
        steps.append(prompts)
    return steps


def rows_of(prompts):
    """Rewards, group ids and task ids, one per response."""
    rows = [
        (reward, prompt, task) for prompt, (task, rewards) in prompts.items() for reward in rewards
    ]
    return [list(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("multipliers", [None, {"x": 0.5, "y": 1.0, "z": 2.0}])
def test_the_filter_keeps_what_the_authors_keeps(multipliers, seed):
    steps = random_steps(random.Random(seed), 40)
    kept, thresholds = reference.filter_course(steps, multipliers=multipliers)
    filter_ = StdFilter(task_multipliers=multipliers)
    for step, prompts in enumerate(steps, start=1):
        rewards, groups, tasks = rows_of(prompts)
        assert filter_.threshold == pytest.approx(thresholds[step - 1], **TOLERANCE)
        keep = filter_.keep(rewards, groups, tasks)
        assert [group for group, is_kept in keep.items() if is_kept] == kept[step - 1]
        filter_.observe(step, rewards, groups)
    assert any(len(kept[i]) < len(steps[i]) for i in range(10, 40))


def test_deviates_from_the_authors_for_a_nan_reward():
    # Theirs trains on without the prompt, whatever made its reward NaN.
    steps = [{"a": ("t", [0.0, 1.0]), "b": ("t", [0.0, math.nan])}] * 12
    kept, thresholds = reference.filter_course(steps)
    assert kept[-1] == ["a"]
    assert thresholds[-1] == pytest.approx(0.5 * math.sqrt(0.5))
    rewards, groups, _ = rows_of(steps[0])
    with pytest.raises(ValueError, match="row 3: nan"):
        StdFilter().observe(1, rewards, groups)


def test_deviates_from_the_authors_for_a_repetitive_response_with_a_reward_of_zero():
    assert reference.final_reward(0.1, 0.3, False, True) == 0
    zero = format_mixed(debias(torch.tensor([0.1]), 0.3), torch.tensor([0]))
    assert repetition_penalized(zero, torch.tensor([-1.0])).item() == -1


def test_deviates_from_the_authors_where_there_is_no_reference_token():
    assert reference.reference_score([], "mean") == 0
    with pytest.raises(ValueError, match="answer_mask is empty"):
        probability_reward(torch.zeros(1, 3), torch.zeros(1, 3))
