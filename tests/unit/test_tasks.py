"""The tasks that data are converted for."""

import pytest

from verl_ext.data.tasks import TASKS, last_boxed, question_answer


def test_a_task_has_the_name_it_is_chosen_by():
    assert {name: task.name for name, task in TASKS.items()} == {"gsm8k": "gsm8k", "math": "math"}


@pytest.mark.parametrize(
    ("blank", "message"),
    [(0, "the question must"), (1, "the answer must"), (2, "the data source must")],
)
def test_a_blank_name_is_said_to_be_that_of_what(blank, message):
    names = ["q", "a", "own"]
    names[blank] = " "
    with pytest.raises(ValueError, match=message):
        question_answer(*names)


def test_of_several_boxes_of_a_kind_the_last_counts():
    assert last_boxed("\\fbox{1} \\fbox{2}") == "2"
    assert last_boxed("\\boxed{1} \\boxed{2}") == "2"
