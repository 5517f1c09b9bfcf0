"""The answer of a published solution: the number behind '####', the last box."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.data.records import Record
from verl_ext.data.tasks import last_boxed, read_gsm8k


@given(number=st.integers(-(10**9), 10**9), currency=st.sampled_from(["", "$"]))
def test_any_whole_number_is_read_with_and_without_separators(number, currency):
    for written in (f"{number}", f"{number:,}", f"{currency}{number:,}."):
        fields = {"question": "?", "answer": f"#### 7\nso\n#### {written} "}
        assert read_gsm8k(Record("here", fields)).ground_truth == str(number)


BALANCED = st.recursive(
    st.text(alphabet="x1\\ $.", min_size=1, max_size=4),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | inner.map(lambda text: "{" + text + "}")
    ),
    max_leaves=8,
)


@given(content=BALANCED, before=BALANCED, after=BALANCED, command=st.sampled_from(["box", "fbox"]))
def test_the_last_box_is_read_to_its_own_closing_brace(content, before, after, command):
    name = {"box": "\\boxed", "fbox": "\\fbox"}[command]
    text = f"{before}\\boxed{{{before}}}{name}{{{content}}}{after}"
    assert last_boxed(text) == content.strip()


@pytest.mark.parametrize(
    ("solution", "content"),
    [
        ("none", None),
        ("\\boxed{1", None),
        ("\\boxed {1}.", "1"),
        ("$x = \\boxed 5$ and $y$", "5"),
        ("\\boxed{\\left\\{1, \\frac{1}{2}\\right\\}}", "\\left\\{1, \\frac{1}{2}\\right\\}"),
        ("\\fbox{1} \\boxed{2}", "2"),
        ("\\boxed{2} \\fbox{1}", "1"),
    ],
)
def test_boxes_as_the_solutions_have_them(solution, content):
    assert last_boxed(solution) == content
