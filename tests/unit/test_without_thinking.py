import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.self_teaching.thinking import without_thinking


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>hm</think>\n\nThe answer is 4.", "The answer is 4."),
        ("<think>a\nb</think> x <think>c</think>\ty", "x y"),
        (" x <think></think>y ", " x y "),
        ("x <think>a\nb</think>y", "x y"),
        ("no thought\n", "no thought\n"),
        ("<think>all</think>", ""),
        ("", ""),
        ("a < think > b", "a < think > b"),
        ("<THINK>a</THINK>b", "<THINK>a</THINK>b"),
    ],
)
def test_thoughts_go_with_the_whitespace_behind_them(text, left):
    assert without_thinking(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("x <think>cut off", "x "),
        ("<think>a</think>x<think>cut off", "x"),
        ("begun in the prompt</think>\n\nx", "x"),
        ("begun in the prompt</think>\nx<think>b</think>y", "xy"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("</think><think>", ""),
        ("<think>a</think>b</think>c", "c"),
    ],
)
def test_deviates_in_removing_thoughts_with_one_tag_alone(text, left):
    assert without_thinking(text) == left


def test_tags_may_be_any_text():
    assert without_thinking("T [T]a[/T] x", "[T]", "[/T]") == "T x"


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n"])).map("".join))
def test_no_tag_is_left(text):
    left = without_thinking(text)
    assert "<think>" not in left
    assert "</think>" not in left
    assert without_thinking(left) == left


@pytest.mark.parametrize("tags", ["<think>", "</think>", "<think></think>", "<think>a</think> b"])
def test_many_tags_take_no_time(tags):
    # Looking for a closing tag from each of a million opening ones would take hours.
    left = without_thinking("<think>a</think>" + tags * 1_000_000)
    assert left == "b" * 1_000_000 if tags.endswith("b") else left == ""
