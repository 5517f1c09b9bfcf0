"""The reward of one response, put together."""

import math

import pytest

from verl_ext.reward_fns.opened_prompt import opened_by, spliced_after, without_reasoning
from verl_ext.reward_fns.reference_reward import (
    Format,
    ReferenceReward,
    Repetition,
)
from verl_ext.reward_fns.response_format import ANSWER_ONLY, Tags
from verl_ext.reward_fns.splice import Outcome, spliced_text

EOS = "<|im_end|>"
GOOD = "<think>a</think><answer>b</answer>"
LOG_PROBS = [math.log(p) for p in (0.9, 0.5, 0.8)]  # mean 0.7333


@pytest.mark.parametrize(
    ("rule", "response", "base", "reward"),
    [
        (ReferenceReward(), GOOD, 0.2, 0.9 * (2.2 / 3 - 0.2) + 0.1),
        (ReferenceReward(), "x" + GOOD, 0.2, 0.9 * (2.2 / 3 - 0.2)),
        (ReferenceReward(), GOOD, 0.8, 0.1),
        (ReferenceReward(debias=False), GOOD, 0.8, 0.9 * 2.2 / 3 + 0.1),
        (ReferenceReward(reduction="product"), GOOD, 0.1, 0.9 * (0.36 - 0.1) + 0.1),
        (ReferenceReward(format=Format(0.0, gate=True)), GOOD, 0.2, 2.2 / 3 - 0.2),
        (ReferenceReward(format=Format(0.0, gate=True)), "x" + GOOD, 0.2, -1.0),
        (ReferenceReward(), GOOD + " word" * 19, 0.2, 0.9 * (2.2 / 3 - 0.2) + 0.1 - 1),
        (ReferenceReward(repetition=None), GOOD + " word" * 19, 0.8, 0.1),
        (ReferenceReward(format=Format(0.25)), GOOD, 0.2, 0.75 * (2.2 / 3 - 0.2) + 0.25),
        (ReferenceReward(format=Format(1.0)), GOOD, 0.2, 1.0),
        (
            ReferenceReward(repetition=Repetition(ngram_size=1, min_count=3, penalty=0.25)),
            GOOD + " word" * 3,
            0.8,
            0.1 - 0.25,
        ),
        (ReferenceReward(), "x" + GOOD + " word" * 19, 0.8, -1.0),
        (
            ReferenceReward(repetition=Repetition(nonzero_only=True)),
            "x" + GOOD + " word" * 19,
            0.8,
            0.0,
        ),
    ],
)
def test_the_parts_make_the_reward(rule, response, base, reward):
    parts = rule.parts(response, Outcome.OK, LOG_PROBS, base)
    assert parts.scored
    assert parts.reward == pytest.approx(reward, abs=1e-12)
    assert parts.below_base == (rule.debias and base > parts.probability)
    assert parts.base == (base if rule.debias else 0.0)


def test_an_invalid_format_has_no_probability_and_is_still_a_response():
    parts = ReferenceReward().parts("none of it" + " word" * 19, Outcome.INVALID_FORMAT, base=0.3)
    assert (parts.probability, parts.gain, parts.format, parts.reward) == (0, 0, 0, -1)
    assert not parts.below_base


@pytest.mark.parametrize("bad", [math.nan, 0.5])
def test_a_log_prob_that_is_none_has_a_name_and_no_reward(bad):
    parts = ReferenceReward().parts(GOOD, Outcome.OK, [-1.0, bad])
    assert parts.outcome is Outcome.INVALID_LOG_PROB
    assert not parts.scored
    assert math.isnan(parts.reward)


@pytest.mark.parametrize(
    "outcome", [Outcome.TOO_LONG, Outcome.EMPTY_REFERENCE, Outcome.REFERENCE_HAS_TAG]
)
def test_what_could_not_be_spliced_has_no_reward(outcome):
    parts = ReferenceReward().parts(GOOD, outcome)
    assert parts.outcome is outcome
    assert not parts.scored
    assert math.isnan(parts.reward)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: ReferenceReward(reduction="median"), "reduction must be one of mean"),
        (lambda: ReferenceReward(reduction="mean_log_prob", debias=False), "needs debias"),
        (lambda: Format(1.5), "weight must be in"),
        (lambda: Format(0.1, gate=True), "no effect with gate"),
        (lambda: Repetition(min_count=1), "min_count"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("assistant\n<think>", "<think>"),
        ("think in <think> tags\nassistant\n", ""),
        ("assistant\n<think>\n\n</think>\n\n", ""),
        ("", ""),
    ],
)
def test_what_a_prompt_has_opened(prompt, opened):
    assert opened_by(prompt) == opened
    assert opened_by(prompt, ANSWER_ONLY) == ""


@pytest.mark.parametrize("opened", ["", "<think>\n"])
def test_the_opened_tag_is_judged_and_not_repeated(opened):
    whole = "<think>\nso</think> <answer> 8</answer>"
    spliced = spliced_after(opened, whole.removeprefix(opened), "42", eos=EOS)
    assert spliced.outcome is Outcome.OK
    assert opened + spliced.text == spliced_text(whole, "42", eos=EOS).text
    first, end = spliced.span
    assert spliced.text[first:end] == "42"
    assert spliced_after("", "so</think> <answer>8", "42", eos=EOS).outcome is (
        Outcome.INVALID_FORMAT
    )


def test_without_reasoning_there_are_no_tags():
    spliced = without_reasoning("4 2", eos=EOS)
    assert spliced.text == f" 4 2 {EOS}"
    first, end = spliced.span
    assert spliced.text[first:end] == "4 2"
    assert without_reasoning(" \n", eos=EOS).outcome is Outcome.EMPTY_REFERENCE


def test_only_the_last_tag_of_a_prompt_opens_and_it_may_be_all_of_it():
    assert opened_by("Write <think> first. <think>\n") == "<think>\n"
    assert opened_by("<think>") == "<think>"


def test_an_opened_response_is_spliced_by_the_tags_that_are_given():
    tags = Tags(think=("[", "]"), answer=("{", "}"))
    spliced = spliced_after("[\n", "why]\n{41}", "42", eos=EOS, tags=tags)
    assert spliced.outcome is Outcome.OK
    assert spliced.text.startswith("why]")
    assert "42" in spliced.text


def test_the_parts_say_whether_the_format_was_kept():
    assert ReferenceReward().parts(GOOD, Outcome.OK, LOG_PROBS).format == 1
    assert ReferenceReward().parts("x" + GOOD, Outcome.OK, LOG_PROBS).format == 0


def test_what_has_no_reward_has_no_parts_either():
    parts = ReferenceReward().parts(GOOD, Outcome.EMPTY_REFERENCE, base=0.3)
    assert math.isnan(parts.reward)
    assert (parts.probability, parts.gain, parts.format, parts.repetition) == (0, 0, 0, 0)


def test_the_parts_say_what_repetition_costs():
    parts = ReferenceReward().parts(GOOD + " word" * 19, Outcome.OK, LOG_PROBS)
    assert parts.repetition == -1


def test_without_a_base_nothing_is_subtracted():
    parts = ReferenceReward().parts(GOOD, Outcome.OK, LOG_PROBS)
    assert parts.gain == parts.probability == pytest.approx(2.2 / 3)


def test_a_response_as_good_as_none_is_not_below_the_base():
    rule = ReferenceReward()
    parts = rule.parts(GOOD, Outcome.OK, LOG_PROBS, rule.score(LOG_PROBS))
    assert parts.gain == 0
    assert not parts.below_base


def test_the_format_is_judged_by_the_tags_that_are_given():
    rule = ReferenceReward(tags=Tags(think=("[", "]"), answer=("{", "}")))
    assert rule.parts("[a]{b}", Outcome.OK, LOG_PROBS).format == 1
    assert rule.parts(GOOD, Outcome.OK, LOG_PROBS).format == 0
