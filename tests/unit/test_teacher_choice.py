import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from verl_ext.self_teaching.choice import REASONS, Rules, choose

# Four groups of 3, 3, 1 and 2 rows.
GROUPS = list("aaabbbcdd")
SCORES = [1, 0, 1, 0, 0, 0, 1, 1, 0]
FEEDBACK = ["", "bad1", "", "wrong", "  ", None, "ok", "", "err"]
RESPONSES = [f"response {row}" for row in range(9)]
DEFAULT = Rules()


def chosen(rules=DEFAULT, *, groups=GROUPS, scores=SCORES, responses=RESPONSES, feedback=FEEDBACK):
    return choose(groups, scores, responses, feedback, rules)


def solution_rows(choices):
    return [choice.solution_row for choice in choices]


def rows_with_feedback(choices):
    return [row for row, choice in enumerate(choices) if choice.feedback is not None]


def taught(choices):
    return [int(choice.reason is None) for choice in choices]


# The tables are those of the authors' function, executed, but for row 6: a lone success in a group
# of one, with the feedback "ok", which they teach that it failed.


def test_by_default_a_sibling_teaches_and_feedback_stands_in_where_nobody_succeeded():
    choices = chosen()
    assert solution_rows(choices) == [2, 0, 0, None, None, None, None, None, 7]
    assert rows_with_feedback(choices) == [3]
    assert taught(choices) == [1, 1, 1, 1, 0, 0, 0, 0, 1]


def test_without_feedback_only_siblings_teach():
    choices = chosen(Rules(include_feedback=False))
    assert solution_rows(choices) == [2, 0, 0, None, None, None, None, None, 7]
    assert rows_with_feedback(choices) == []
    assert taught(choices) == [1, 1, 1, 0, 0, 0, 0, 0, 1]


def test_a_row_may_be_let_to_learn_from_its_own_success():
    rules = Rules(include_feedback=False, dont_reprompt_on_self_success=False)
    choices = chosen(rules)
    # Row 2 gets row 0, the first of its group, and not itself.
    assert solution_rows(choices) == [0, 0, 0, None, None, None, 6, 7, 7]
    assert taught(choices) == [1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_feedback_may_stand_beside_a_solution():
    choices = chosen(Rules(feedback_only_without_solution=False))
    assert solution_rows(choices) == [2, 0, 0, None, None, None, None, None, 7]
    assert rows_with_feedback(choices) == [1, 3, 8]


def test_without_solutions_feedback_alone_teaches_every_failure_that_has_some():
    choices = chosen(Rules(include_solution=False))
    assert solution_rows(choices) == [None] * 9
    assert rows_with_feedback(choices) == [1, 3, 8]
    assert taught(choices) == [0, 1, 0, 1, 0, 0, 0, 0, 1]


def test_deviates_in_never_telling_a_successful_row_that_it_failed():
    everything = Rules(feedback_only_without_solution=False, include_attempt=True)
    choices = chosen(everything, feedback=["said"] * 9)
    for choice, score in zip(choices, SCORES, strict=True):
        if score:
            assert choice.feedback is None
            assert choice.attempt is None
        else:
            assert choice.feedback == "said"
            assert choice.attempt is not None
    # Row 6, a success without siblings, is taught nothing; the authors show it its feedback.
    assert choices[6].reason == "own_success"


# ---- what is shown


def test_the_solution_is_the_siblings_response_and_the_feedback_comes_as_it_is():
    choices = chosen(Rules(feedback_only_without_solution=False), feedback=[" f\n"] * 9)
    assert choices[1].solution == "response 0"
    assert choices[1].feedback == " f\n"


def test_solutions_lose_their_thoughts_and_attempts_keep_them():
    responses = [f"<think>hm</think>\n\n{row}" for row in range(9)]
    rules = Rules(include_attempt=True)
    choices = chosen(rules, responses=responses)
    assert choices[1].solution == "0"
    assert choices[1].attempt == responses[1]
    kept = chosen(replace(rules, remove_thinking=False), responses=responses)
    assert kept[1].solution == responses[0]


def test_the_tags_of_a_thought_can_be_others():
    responses = ["[T]hm[/T] yes <think>kept</think>", "no"]
    rules = Rules(thinking_tags=("[T]", "[/T]"))
    choices = choose("aa", [1, 0], responses, [None, None], rules)
    assert choices[1].solution == "yes <think>kept</think>"


def test_the_own_attempt_comes_only_beside_something_else_and_only_if_asked_for():
    assert [choice.attempt for choice in chosen()] == [None] * 9
    choices = chosen(Rules(include_attempt=True))
    # Failures with a solution (1, 8) or feedback (3); 4 and 5 have neither.
    shown = {row: choice.attempt for row, choice in enumerate(choices) if choice.attempt}
    assert shown == {1: "response 1", 3: "response 3", 8: "response 8"}
    assert chosen(Rules(include_attempt=True), responses=[" "] * 9)[3].attempt is None


@pytest.mark.parametrize("blank", ["", " \n", "<think>all of it</think> ", "<think>cut off"])
def test_deviates_in_passing_over_a_success_that_shows_nothing(blank):
    responses = [blank, *RESPONSES[1:]]
    choices = chosen(responses=responses)
    assert choices[1].solution_row == 2
    # Row 2 has only the blank one left, and itself.
    assert choices[2].reason == "own_success"


# ---- groups


def test_a_lone_success_teaches_its_siblings_and_not_itself():
    choices = choose("aaa", [0, 1, 0], ["x", "y", "z"], [None] * 3, Rules())
    assert solution_rows(choices) == [1, None, 1]
    assert [choice.reason for choice in choices] == [None, "own_success", None]


def test_a_group_of_one_is_taught_by_feedback_on_its_failure_alone():
    def only(score, said):
        return choose("a", [score], ["x"], [said], Rules())[0]

    assert only(0, "f").feedback == "f"
    assert only(0, None).reason == "no_success_no_feedback"
    assert only(1, "f").reason == "own_success"


def test_siblings_need_not_stand_together_and_groups_may_have_any_label():
    choices = choose([7, "b", 7, "b"], [0, 1, 1, 0], list("wxyz"), [None] * 4, Rules())
    assert solution_rows(choices) == [2, None, None, 1]


@pytest.mark.parametrize("as_batch", [np.array, torch.tensor])
def test_arrays_and_tensors_are_as_good_as_lists(as_batch):
    numbers = [0, 0, 0, 1, 1, 1, 2, 3, 3]
    assert chosen(groups=as_batch(numbers), scores=as_batch(SCORES)) == chosen()


def test_a_batch_without_rows_has_no_choices():
    assert choose([], [], [], [], Rules()) == []


# ---- success


@pytest.mark.parametrize(("score", "source"), [(0.5, 0), (0.49, None), (10, 0), (-1, None)])
def test_a_success_scores_at_least_the_threshold(score, source):
    assert choose("aa", [score, 0], "xy", [None, None], Rules())[1].solution_row == source


def test_the_threshold_can_be_another():
    rules = Rules(success_threshold=1.0)
    assert choose("aa", [0.9, 0], "xy", [None, None], rules)[1].solution_row is None


# ---- why not


@pytest.mark.parametrize(
    ("rules", "reasons"),
    [
        (Rules(), ["own_success", "no_success_no_feedback", "no_success_no_feedback"]),
        (Rules(include_feedback=False), ["own_success", "no_success", "no_success"]),
        (Rules(include_solution=False), ["own_success", "no_feedback", "no_feedback"]),
    ],
)
def test_a_row_without_a_teacher_says_what_it_lacks(rules, reasons):
    choices = choose("abb", [1, 0, 0], "xyz", [None, "", " \t\n"], rules)
    assert [choice.reason for choice in choices] == reasons
    assert set(reasons) <= set(REASONS)


# ---- what is refused


def test_no_hint_at_all_is_refused():
    with pytest.raises(ValueError, match="include_solution and include_feedback are both off"):
        Rules(include_solution=False, include_feedback=False, include_attempt=True)


@pytest.mark.parametrize("tags", [("", "</think>"), ("<t>", " "), ("<t>", "<t>")])
def test_tags_that_mark_nothing_are_refused(tags):
    with pytest.raises(ValueError, match="thinking_tags must be two different texts"):
        Rules(thinking_tags=tags)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_that_nothing_is_measured_by_is_refused(threshold):
    with pytest.raises(ValueError, match="success_threshold must be finite"):
        Rules(success_threshold=threshold)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused_with_its_row(score):
    with pytest.raises(ValueError, match=r"scores must be finite, got .* in row 3"):
        chosen(scores=[*SCORES[:3], score, *SCORES[4:]])


@pytest.mark.parametrize("said", [math.nan, 0, ["err"], b"err"])
def test_feedback_that_is_no_text_is_refused_with_its_row(said):
    with pytest.raises(ValueError, match=r"feedback must be text or None, got .* in row 2"):
        chosen(feedback=[*FEEDBACK[:2], said, *FEEDBACK[3:]])


@pytest.mark.parametrize("name", ["groups", "scores", "feedback"])
def test_lists_of_unequal_length_are_refused(name):
    columns = {"groups": GROUPS, "scores": SCORES, "feedback": FEEDBACK}
    with pytest.raises(ValueError, match=r"9 rows, 8 (labels|scores|entries)"):
        chosen(**{name: columns[name][:-1]})


def test_a_group_for_every_row_is_asked_for_by_its_name():
    with pytest.raises(ValueError, match="group_ids must have one label per row"):
        chosen(groups=GROUPS[:-1])
