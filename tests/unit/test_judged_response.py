"""What a judge is shown of the policy's turns."""

import pytest

from verl_ext.reward_fns.judged_response import judged_response


def test_one_turn_is_reasoning_then_answer():
    shown = judged_response(["<think>\nwhy\n</think>\n\nso \n"])
    assert (shown.reasoning, shown.tool_calls, shown.answer) == ("why", (), "so")


def test_without_reasoning_all_is_the_answer():
    shown = judged_response(["so"])
    assert (shown.reasoning, shown.tool_calls, shown.answer) == ("", (), "so")


def test_the_template_may_have_opened_the_reasoning():
    shown = judged_response(["why</think>so"])
    assert (shown.reasoning, shown.answer) == ("why", "so")


def test_reasoning_ends_at_its_last_end():
    shown = judged_response(["<think>a</think>b</think>c"])
    assert (shown.reasoning, shown.answer) == ("ab", "c")


@pytest.mark.parametrize("turn", ["<think>why and", "why <think>and"])
def test_reasoning_that_has_not_ended_leaves_no_answer(turn):
    shown = judged_response([turn])
    assert (shown.reasoning, shown.answer) == ("why and", "")


def test_reasoning_that_begins_anew_after_its_end_is_no_reasoning_without_end():
    assert judged_response(["<think>a</think>b <think> c"]).answer == "b <think> c"


def test_earlier_turns_are_reasoning_and_their_calls_stand_apart():
    turns = [
        "<think>first</think>let me look<tool_call>\n{1}\n</tool_call><tool_call>{2}</tool_call>",
        "and again <tool_call>{3}</tool_call>",
        "<think>last</think>so<tool_call>{4}</tool_call>",
    ]
    shown = judged_response(turns)
    assert shown.reasoning == "first\nlet me look\nand again\nlast"
    assert shown.tool_calls == ("{1}", "{2}", "{3}", "{4}")
    assert shown.answer == "so"


def test_an_earlier_turn_whose_reasoning_has_not_ended_is_reasoning_too():
    shown = judged_response(["<think>a", "b"])
    assert (shown.reasoning, shown.answer) == ("a", "b")


def test_nothing_said_is_nothing_shown():
    shown = judged_response([])
    assert (shown.reasoning, shown.tool_calls, shown.answer) == ("", (), "")


def test_a_call_over_several_lines_is_one():
    assert judged_response(["<tool_call>{\n1}</tool_call>so"]).tool_calls == ("{\n1}",)
