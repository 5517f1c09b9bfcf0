import math

import pytest
import torch

from verl_ext.reward_fns.response_format import (
    ANSWER_ONLY,
    Tags,
    answer_start,
    format_gated,
    format_mixed,
    format_reward,
)

GOOD = "<think>a</think><answer>b</answer>"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (GOOD, 1),
        (GOOD + "<|im_end|>", 1),
        ("<think>a</think> so\n<answer>b\nc</answer> bye", 1),
        ("<think></think><answer></answer>", 1),
        ("x" + GOOD, 0),
        (" " + GOOD, 0),
        ("<think>a</think><answer>b", 0),
        ("<think>a</think><answer>b<answer>c</answer>", 0),
        (GOOD + "</answer>", 0),
        (GOOD + GOOD, 0),
        ("<think>a<answer>b</answer></think>", 0),
        ("<think>a</think></answer>b<answer>", 0),
        ("<think>a</answer></think><answer>b", 0),
        ("<answer>b</answer>", 0),
        ("", 0),
        ("b", 0),
    ],
)
def test_the_format_is_all_tags_once_in_order_from_the_start(response, expected):
    result = format_reward(response)
    assert result == expected
    assert isinstance(result, float)


@pytest.mark.parametrize(
    ("response", "expected"),
    [("a <answer>b</answer> c", 1), ("<answer>b", 0), ("</answer><answer>", 0), (GOOD, 1)],
)
def test_without_reasoning_tags_the_answers_are_enough(response, expected):
    assert format_reward(response, tags=ANSWER_ONLY) == expected


def test_splicing_is_less_strict_than_the_format_reward():
    for response in ("x" + GOOD, "<think>a</think><answer>b", GOOD + "</answer>"):
        assert format_reward(response) == 0
        assert answer_start(response) == response.index("<answer>") + len("<answer>")


def test_tags_may_come_from_a_configuration():
    tags = Tags(think=["[r]", "[/r]"], answer=["[a]", "[/a]"])
    assert format_reward("[r]x[/r][a]y[/a]", tags=tags) == 1
    assert format_reward(GOOD, tags=tags) == 0


@pytest.mark.parametrize("pair", ["ab", ["<a>"], ["<a>", "</a>", "<b>"]])
def test_tags_that_are_no_pair_are_refused_by_name(pair):
    with pytest.raises(ValueError, match="answer must be an opening and a closing tag"):
        Tags(answer=pair)
    with pytest.raises(ValueError, match="think must be an opening and a closing tag"):
        Tags(think=pair)


def test_an_answer_without_tags_is_refused():
    with pytest.raises(ValueError, match="answer must be an opening and a closing tag"):
        Tags(answer=())


@pytest.mark.parametrize(
    "pair", [("", "</a>"), ("<a>", "<a>"), ("<a", "<a>"), ("<a>", "<a"), ("<think>", "<a>")]
)
def test_tags_that_cannot_be_told_apart_are_refused(pair):
    with pytest.raises(ValueError, match="no tag may be empty or part of another"):
        Tags(answer=pair)


# composition


def test_the_format_weighs_a_tenth_beside_the_reward():
    # .9 · .534375 + .1, and without the format's tenth; clipped rewards leave the format alone.
    rewards = torch.tensor([0.534375, 0.534375, 0, 0], dtype=torch.float64)
    mixed = format_mixed(rewards, torch.tensor([1, 0, 1, 0]))
    assert mixed.tolist() == pytest.approx([0.5809375, 0.4809375, 0.1, 0], rel=1e-12)


def test_the_weight_goes_from_the_reward_alone_to_the_format_alone():
    rewards, formats = torch.tensor([0.25, 0.75]), torch.tensor([1.0, 0.0])
    assert format_mixed(rewards, formats, weight=0).tolist() == [0.25, 0.75]
    assert format_mixed(rewards, formats, weight=1).tolist() == [1, 0]
    assert format_mixed(rewards, formats, weight=0.5).tolist() == [0.625, 0.375]


def test_a_gated_reward_counts_in_the_format_alone():
    rewards = torch.tensor([0.534375, 0.534375, 0])
    formats = torch.tensor([True, False, True])
    assert format_gated(rewards, formats).tolist() == [rewards[0].item(), -1, 0]
    assert format_gated(rewards, formats, penalty=0.5).tolist() == [rewards[0].item(), -0.5, 0]


@pytest.mark.parametrize("composed", [format_mixed, format_gated])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_format_rewards_may_be_of_any_type_and_the_rewards_keep_theirs(composed, dtype):
    rewards = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert composed(rewards, torch.tensor([1, 0], dtype=dtype)).dtype == torch.float64


@pytest.mark.parametrize("composed", [format_mixed, format_gated])
def test_format_rewards_that_are_none_are_refused(composed):
    with pytest.raises(ValueError, match=r"format_rewards must be 0 or 1, got \[0.5, 2.0\]"):
        composed(torch.zeros(3), torch.tensor([2, 0.5, 1]))
    with pytest.raises(ValueError, match="format_rewards must be 0 or 1"):
        composed(torch.zeros(1), torch.tensor([math.nan]))
    with pytest.raises(ValueError, match=r"format_rewards \(1,\)"):
        composed(torch.zeros(3), torch.ones(1))


@pytest.mark.parametrize("weight", [-1, 1.1, math.nan])
def test_a_weight_outside_0_to_1_is_refused(weight):
    with pytest.raises(ValueError, match=r"weight must be in \[0, 1\]"):
        format_mixed(torch.zeros(1), torch.ones(1), weight=weight)


@pytest.mark.parametrize("penalty", [-1, math.inf, math.nan])
def test_a_penalty_that_is_none_is_refused(penalty):
    with pytest.raises(ValueError, match="penalty must be finite and >= 0"):
        format_gated(torch.zeros(1), torch.ones(1), penalty=penalty)


def test_a_format_may_cost_nothing_but_the_reward():
    gated = format_gated(torch.tensor([0.5, 0.5]), torch.tensor([1, 0]), penalty=0)
    assert gated.tolist() == [0.5, 0]
