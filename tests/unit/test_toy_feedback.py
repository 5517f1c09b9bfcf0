import random
import re
from itertools import islice, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.toy import reward
from verl_ext.toy.feedback import compute_score, feedback
from verl_ext.toy.task import DATA_SOURCES, TaskSpec, stream


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("bbaaff", ""),
        ("", "Empty."),
        ("bbaafff", "Too long."),
        ("abbaaff", "Too long."),
        ("x" * 10_000, "Too long."),
        ("bba", "Right, but too short."),
        ("b", "Right, but too short."),
        ("baf", "Letter 2 is wrong."),  # the doubling forgotten
        ("bbaafa", "Letter 6 is wrong."),
        ("bbcaff", "Letter 3 is wrong: there is no 'c'."),
        ("bbcxyz", "Letter 3 is wrong: there is no 'c'."),
        ("Bbaaff", "Letter 1 is wrong: there is no 'B'."),
        ("bb\n", "Letter 3 is wrong: there is no '\\n'."),
        ("'", 'Letter 1 is wrong: there is no "\'".'),
    ],
)
def test_the_first_thing_that_is_wrong_is_said(word, said):
    assert feedback(word, "bbaaff") == said


def words(alphabet, longest):
    return [
        "".join(letters)
        for length in range(1, longest + 1)
        for letters in product(alphabet, repeat=length)
    ]


def test_every_feedback_on_a_wrong_answer_fits_more_than_one_right_word():
    # Whoever knows the answer, its feedback and even which two letters there are.
    others = words("ab", 4)
    for word, right in product(["", *words("ab", 4)], words("ab", 3)):
        if word != right:
            said = feedback(word, right)
            fitting = [other for other in others if feedback(word, other) == said]
            assert len(fitting) > 1, (word, right, said)
            assert right in fitting


# Two letters or more, as the toy task's answers have.
answers = st.text("abcdef", min_size=2, max_size=12)


@given(st.text("abcdefx", max_size=14), answers)
def test_feedback_never_holds_the_answer_nor_two_of_its_letters_in_a_row(word, right):
    said = feedback(word, right)
    assert right not in said
    assert not re.search("[a-f]{2}", said)


@given(st.text("abcx", max_size=6), st.text("abc", min_size=1, max_size=6))
def test_there_is_feedback_unless_the_answer_is_right(word, right):
    assert (feedback(word, right) == "") == (word == right)


def test_different_mistakes_are_told_apart():
    problem = next(
        p for p in stream(TaskSpec(), "toy", "train", random.Random(0)) if len(p.answer) > 3
    )
    right = problem.answer
    mistakes = ["", right + "a", right[:-1], right[0] + "x" + right[2:], "x" + right[1:]]
    assert len({feedback(word, right) for word in mistakes}) == len(mistakes)


@pytest.mark.parametrize("data_source", DATA_SOURCES)
def test_score_and_accuracy_are_the_rewards_and_every_row_has_the_same_keys(data_source):
    for problem in islice(stream(TaskSpec(), data_source, "validation", random.Random(1)), 20):
        for response in (problem.answer, problem.answer + "<|im_end|>", "", problem.word, "x"):
            scored = compute_score(data_source, response, problem.answer, {"index": 0})
            assert scored.keys() == {"score", "acc", "feedback"}
            said = scored.pop("feedback")
            assert scored == reward.compute_score(data_source, response, problem.answer)
            assert (said == "") == (scored["acc"] == 1)


def test_the_end_of_the_turn_is_no_mistake():
    scored = compute_score("toy", "bba<|im_end|><|endoftext|>", "bbaaff")
    assert scored["feedback"] == "Right, but too short."


def test_settings_of_the_reward_are_handed_on():
    scored = compute_score("toy_points", "bba", "bbaaff", scales={"toy_points": 100})
    assert scored["score"] == 500
    with pytest.raises(TypeError, match="scale"):
        compute_score("toy_points", "bba", "bbaaff", scale={"toy_points": 100})


def test_what_the_reward_refuses_is_refused():
    with pytest.raises(ValueError, match="did you mean 'toy_held_out'"):
        compute_score("toy_heldout", "a", "a")
    with pytest.raises(TypeError, match="solution_str must be a str"):
        compute_score("toy", None, "a")
