"""The toy's rewards: the right word alone, graded ones, their scales."""

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.toy.reward import compute_score, likeness, points
from verl_ext.toy.task import DOMAINS


def test_domains_are_rewarded_for_the_right_word_alone():
    for domain in DOMAINS:
        assert compute_score(domain, "bbaaff", "bbaaff") == {"score": 1, "acc": 1}
        assert compute_score(domain, "bbaafe", "bbaaff") == {"score": 0, "acc": 0}


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("bbaaff", 1.0),
        ("bbaaff<|im_end|>", 1.0),
        ("bbaaff<|im_end|><|endoftext|><|endoftext|>", 1.0),
        ("bbaaff ", 0.0),
        ("bbaaff\n", 0.0),
        ("BBAAFF", 0.0),
        ("bbaafff", 0.0),
        ("bbaaf", 0.0),
        ("bbaaff=bbaaff", 0.0),
        ("<|im_end|>bbaaff", 0.0),
        ("bbaaff<|im_end|><|im_end|>", 0.0),
        ("", 0.0),
        ("\ufffd", 0.0),
        ("b" * 10_000, 0.0),
    ],
)
def test_only_the_exact_word_is_rewarded(response, score):
    expected = {"score": score, "acc": score}
    assert compute_score("toy", response, "bbaaff", {"index": 0}) == expected
    assert compute_score("toy_exact", response, "bbaaff") == expected


# ---- graded rewards


@pytest.mark.parametrize(
    ("response", "edits"),
    [
        ("gabbag", 0),
        ("gab", 3),  # the mirror forgotten: three letters to insert
        ("gabgab", 2),  # the first and the last of the second half replaced
        ("agbbag", 2),  # the first two replaced
        ("abbag", 1),
        ("gabbagx", 1),
        ("xgabbag", 1),  # nothing is right place by place; one letter is to be removed
        ("GABBAG", 6),
        ("gabbag ", 1),
        ("", 6),
        ("xyz", 6),  # three replaced, three inserted
        ("é", 6),
        ("\ufffd" * 16, 16),
    ],
)
def test_letters_that_need_no_edit_are_right(response, edits):
    score = 1 - edits / (len(response) + 6)
    expected = {"score": score, "acc": float(edits == 0)}
    assert compute_score("toy_letters", response, "gabbag") == expected


@pytest.mark.parametrize(
    ("response", "before", "longer"),
    [
        ("bbaaff", 6, 6),
        ("baf", 1, 6),  # the doubling forgotten
        ("bbaa", 4, 6),
        ("bbaaffe", 6, 7),
        ("bbaafe", 5, 6),
        ("fbbaaff", 0, 7),
        ("bbxaff", 2, 6),  # right again after the mistake
        ("BBaaff", 0, 6),
        ("", 0, 6),
        ("b" * 10_000, 2, 10_000),
    ],
)
def test_points_stop_at_the_first_mistake(response, before, longer):
    expected = {"score": 10 * before / longer, "acc": float(response == "bbaaff")}
    assert compute_score("toy_points", response, "bbaaff") == expected


@pytest.mark.parametrize("task", ["toy_letters", "toy_points"])
def test_the_end_of_the_turn_and_padding_cost_a_graded_answer_nothing(task):
    plain = compute_score(task, "bba", "bbaaff")
    assert compute_score(task, "bba<|im_end|><|endoftext|><|endoftext|>", "bbaaff") == plain


def edits_retold(word, right):
    """The definition: each letter is kept, replaced, removed or inserted; the cheapest way."""

    @cache
    def cost(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(
            cost(i - 1, j) + 1,
            cost(i, j - 1) + 1,
            cost(i - 1, j - 1) + (word[i - 1] != right[j - 1]),
        )

    return cost(len(word), len(right))


@given(st.text("abc", max_size=8), st.text("abc", min_size=1, max_size=8))
def test_graded_rewards_are_highest_for_the_right_word_alone(word, right):
    assert likeness(word, right) == 1 - edits_retold(word, right) / (len(word) + len(right))
    assert 0 <= likeness(word, right) <= 1
    assert 0 <= points(word, right) <= 10
    assert (likeness(word, right) == 1) == (points(word, right) == 10) == (word == right)


# ---- scales


def test_a_scale_multiplies_the_reward_of_its_task_and_leaves_accuracy():
    scales = {"toy_points": 100, "toy_letters": 0.5}
    assert compute_score("toy_points", "bba", "bbaaff", scales=scales)["score"] == 500
    assert compute_score("toy_points", "bbaaff", "bbaaff", scales=scales) == {
        "score": 1000,
        "acc": 1,
    }
    assert compute_score("toy_letters", "bba", "bbaaff", scales=scales)["score"] == 0.5 * (
        1 - 3 / 9
    )
    assert compute_score("toy_exact", "bbaaff", "bbaaff", scales=scales)["score"] == 1


@pytest.mark.parametrize("scales", [None, {}, {"toy_points": 1}])
def test_without_a_factor_rewards_keep_their_own_scale(scales):
    assert compute_score("toy_points", "bba", "bbaaff", scales=scales)["score"] == 5


@pytest.mark.parametrize("factor", [0, -1, math.inf, math.nan, True, "10", None, [10]])
def test_a_factor_that_is_no_positive_number_is_refused(factor):
    with pytest.raises(ValueError, match=r"scales\.toy_points must be a finite number > 0"):
        compute_score("toy_exact", "a", "a", scales={"toy_points": factor})


def test_a_misspelt_task_in_scales_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"a key of scales .* did you mean 'toy_points'"):
        compute_score("toy_exact", "a", "a", scales={"toy_point": 10})


def test_scales_that_are_no_mapping_are_refused():
    with pytest.raises(ValueError, match="scales must map data sources to factors, got 10"):
        compute_score("toy_exact", "a", "a", scales=10)


def test_a_misspelt_keyword_argument_is_refused():
    with pytest.raises(TypeError, match="scale"):
        compute_score("toy_exact", "a", "a", scale={"toy_points": 10})


def test_verl_hands_scales_and_its_own_arguments_over(verl_config):
    reward = pytest.importorskip("verl.trainer.ppo.reward")
    score = reward.get_custom_reward_fn(
        verl_config(
            "reward.custom_reward_function.path=pkg://verl_ext.toy.reward",
            "+reward.custom_reward_function.reward_kwargs.scales.toy_points=100",
        )
    )
    asked = {"data_source": "toy_points", "solution_str": "bba", "ground_truth": "bbaaff"}
    router = {"reward_router_address": "127.0.0.1:1", "reward_model_tokenizer": object()}
    assert score(**asked, extra_info={}, **router) == {"score": 500, "acc": 0}


# ---- what is no answer to a problem


def test_a_misspelt_data_source_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'toy_held_out'"):
        compute_score("toy_heldout", "a", "a")


@pytest.mark.parametrize(("response", "truth"), [(None, "a"), (b"a", "a"), ("a", None), ("a", 1)])
def test_what_is_not_text_is_refused_instead_of_scored(response, truth):
    with pytest.raises(TypeError, match="must be a str"):
        compute_score("toy", response, truth)


def test_an_empty_right_word_is_refused():
    with pytest.raises(ValueError, match="ground_truth is empty"):
        compute_score("toy", "", "")
