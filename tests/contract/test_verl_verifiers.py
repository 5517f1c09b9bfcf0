"""verl's verifiers of gsm8k and math, as they are: what they accept and what they miss.

``docs/footguns.md`` tells users; when an upgrade of verl changes a line here, change it there.
"""

import pytest

pytest.importorskip("verl")

from verl.utils.reward_score import default_compute_score

GSM8K = [
    ("#### 42", "42", 1.0),
    ("#### 1,042", "1042", 1.0),
    ("#### -42", "-42", 1.0),
    ("#### 42 apples", "42", 1.0),
    ("#### 41\nNo.\n#### 42", "42", 1.0),
    ("#### 42\nNo.\n#### 41", "42", 0.0),
    ("42", "42", 0.0),
    ("", "42", 0.0),
    # Right answers that it misses.
    ("#### 42.", "42", 0.0),
    ("#### 42.00", "42", 0.0),
    ("#### $42", "42", 0.0),
    ("#### **42**", "42", 0.0),
    ("####42", "42", 0.0),
    ("#### 1042", "1,042", 0.0),  # why the converter takes the separators out of the truth
    ("#### 42\n" + "." * 300, "42", 0.0),  # only the last 300 characters are looked at
    # Wrong answers that it accepts.
    ("#### 42/7", "42", 1.0),
    ("#### 42\nNo.\n#### none", "42", 1.0),
]

MATH = [
    (r"$\boxed{42}$", "42", 1.0),
    (r"$\boxed{42}$", "41", 0.0),
    (r"$\boxed 5$", "5", 1.0),
    (r"\boxed{\frac12}", r"\frac{1}{2}", 1.0),
    (r"\boxed{\dfrac{1}{2}}", r"\frac{1}{2}", 1.0),
    (r"\boxed{1/2}", r"\frac{1}{2}", 1.0),
    (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
    (r"\boxed{x=5}", "5", 1.0),
    (r"\boxed{5\text{ cm}}", "5", 1.0),
    (r"\boxed{50\%}", "50", 1.0),
    (r"\boxed{10,\!080}", "10,080", 1.0),
    (r"\boxed{(1, 2)}", "(1,2)", 1.0),
    (r"\boxed{41}, no, \boxed{42}", "42", 1.0),
    (r"\boxed{42}, no, \boxed{41}", "42", 0.0),
    (r"\boxed{42", "42", 0.0),
    ("42", "42", 0.0),
    ("", "42", 0.0),
    # Right answers that it misses.
    (r"\boxed{42.}", "42", 0.0),
    (r"\boxed{10080}", r"10,\!080", 0.0),
    (r"\boxed{10{,}080}", r"10,\!080", 0.0),
    (r"\boxed{0.25}", r"\frac{1}{4}", 0.0),
    (r"\boxed{5\text{cm}}", "5", 0.0),
    (r"\boxed{Monday}", r"\text{Monday}", 0.0),
    (r"\boxed{50%}", "50", 0.0),
    (r"\boxed{2,1}", "1,2", 0.0),
    (r"\boxed{1+x}", "x+1", 0.0),
    (r"\boxed {42}", "42", 0.0),
    (r"\boxed 5. Done", "5", 0.0),
    (r"I fill \boxed {} last. \boxed{42}", "42", 0.0),  # a box with a space beats the last one
    (r"\fbox{42}", "42", 0.0),  # an exception inside, printed and counted as wrong
    (r"\boxed{5\text{ m}\text{ s}}", "5", 0.0),  # the same
]


@pytest.mark.parametrize(("response", "truth", "score"), GSM8K)
def test_gsm8k_scores_as_the_footguns_say(response, truth, score):
    assert default_compute_score("openai/gsm8k", response, truth) == score


@pytest.mark.parametrize(("response", "truth", "score"), MATH)
@pytest.mark.parametrize("source", ["DigitalLearningGmbH/MATH-lighteval", "lighteval/MATH"])
def test_math_scores_as_the_footguns_say(source, response, truth, score):
    assert default_compute_score(source, response, truth) == score


def test_math_calls_two_empty_answers_equal_so_the_converter_refuses_an_empty_truth():
    assert default_compute_score("lighteval/MATH", r"\boxed{}", "") == 1.0


def test_a_data_source_that_verl_does_not_know_is_an_error_and_not_a_0():
    with pytest.raises(NotImplementedError):
        default_compute_score("math_typo", r"\boxed{42}", "42")
