import math

import pytest
import torch

from verl_ext.reward_fns.repetition import repetition_penalized, repetition_penalty

LINE = "one two three four five six seven eight nine ten\n"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("", 0),
        ("a " * 10, 0),
        # n words have n − 9 windows of ten, all of them equal: 18 words nine, 19 words ten.
        ("a " * 18, 0),
        ("a " * 19, -1),
        # Ten times ten words: its first window begins each line.
        (LINE * 9, 0),
        (LINE * 10, -1),
        (LINE * 9 + "but then " + LINE, -1),
        (LINE.replace(" ", "_") * 10, -1),  # an underscore ends a word too
        (LINE.replace(" ", "-") * 10, 0),  # ten words, one window
        (" ".join(map(str, range(1000))), 0),
    ],
)
def test_ten_words_that_occur_ten_times_are_a_repetition(response, expected):
    assert repetition_penalty(response) == expected


def test_the_window_the_count_and_the_penalty_can_be_chosen():
    settings = {"ngram_size": 2, "min_count": 3, "penalty": 0.25}
    assert repetition_penalty("a b a b a", **settings) == 0  # a b twice, b a twice
    assert repetition_penalty("a b a b a b", **settings) == -0.25
    assert repetition_penalty("b a b", ngram_size=1, min_count=2) == -1


def test_no_penalty_is_a_zero_without_a_minus_sign():
    assert math.copysign(1, repetition_penalty("a", penalty=0.5)) == 1


def test_deviates_from_the_authors_in_a_line_of_blanks_to_fill_in():
    # Between 40 underscores theirs finds empty words, 39 at least, and with them a repetition.
    assert repetition_penalty("Name: " + "_" * 40) == 0


def test_the_penalty_is_added_to_every_reward():
    rewards, penalties = torch.tensor([0.5, 0.25, 0, 0]), torch.tensor([-1.0, 0, -1, 0])
    assert repetition_penalized(rewards, penalties).tolist() == [-0.5, 0.25, -1, 0]


def test_as_published_a_reward_of_zero_escapes():
    rewards, penalties = torch.tensor([0.5, 0, -0.5]), torch.tensor([-1.0, -1, -1])
    penalized = repetition_penalized(rewards, penalties, nonzero_only=True)
    assert penalized.tolist() == [-0.5, 0, -1.5]


def test_deviates_from_the_authors_for_a_reward_of_zero():
    zero, penalty = torch.zeros(1), -torch.ones(1)
    assert repetition_penalized(zero, penalty, nonzero_only=True).item() == 0  # theirs
    assert repetition_penalized(zero, penalty).item() == -1


@pytest.mark.parametrize(("name", "value"), [("ngram_size", 0), ("min_count", 1)])
def test_a_window_or_count_that_says_nothing_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        repetition_penalty("a", **{name: value})


@pytest.mark.parametrize("penalty", [-1, math.inf, math.nan])
def test_a_penalty_that_is_none_is_refused(penalty):
    with pytest.raises(ValueError, match="penalty must be finite and >= 0"):
        repetition_penalty("a", penalty=penalty)


def test_a_penalty_of_zero_costs_nothing():
    assert repetition_penalty("a " * 19, penalty=0) == 0


def test_penalties_above_zero_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"penalties must be <= 0, got \[1.0\]"):
        repetition_penalized(torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="penalties must be <= 0"):
        repetition_penalized(torch.zeros(1), torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="penalties must be <= 0"):
        repetition_penalized(torch.zeros(2), torch.tensor([-1.0, 1.0]))
    with pytest.raises(ValueError, match=r"penalties \(1,\)"):
        repetition_penalized(torch.zeros(2), torch.zeros(1))
