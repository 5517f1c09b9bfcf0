import pytest

from verl_ext.self_teaching.texts import Texts

NAMES = ("solution", "feedback", "attempt")


def test_the_default_wording_is_valid_and_never_tells_a_successful_row_that_it_failed():
    texts = Texts()
    for shown_to_all in (texts.solution, texts.instruction):
        assert "wrong" not in shown_to_all


def test_the_default_wording_is_what_runs_have_been_made_with():
    assert Texts() == Texts(
        solution="Here is a response to this question that was judged correct:\n\n{solution}",
        feedback="An earlier response was judged wrong. What was said about it:\n\n{feedback}",
        attempt="This is the earlier response that was judged wrong:\n\n{attempt}",
        instruction="Now answer the question at the beginning, and answer it correctly.",
        marker=" ... ",
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_placeholder_is_named(name):
    with pytest.raises(ValueError, match=rf"texts\.{name} needs \{{{name}\}} once, got it 0 times"):
        Texts(**{name: "Look:"})


@pytest.mark.parametrize("name", NAMES)
def test_a_placeholder_stands_once_since_shortening_counts_it_once(name):
    with pytest.raises(ValueError, match=rf"texts\.{name} needs .* got it 2 times"):
        Texts(**{name: f"{{{name}}} and {{{name}}}"})


@pytest.mark.parametrize("unknown", ["{feedbak}", "{}", "{0}", "{solution}", "{feedback.x}"])
def test_an_unknown_placeholder_is_named_with_the_one_allowed(unknown):
    with pytest.raises(ValueError, match=r"texts\.feedback has an unknown placeholder") as error:
        Texts(feedback=f"{{feedback}} {unknown}")
    assert unknown in str(error.value)
    assert "only {feedback}" in str(error.value)


@pytest.mark.parametrize("formatted", ["{solution!r}", "{solution:>9}", "{solution:{feedback}}"])
def test_a_placeholder_is_not_formatted(formatted):
    with pytest.raises(ValueError, match=r"texts\.solution has an unknown placeholder") as error:
        Texts(solution=f"Look: {formatted}")
    assert formatted in str(error.value)


def test_an_instruction_has_no_placeholder():
    with pytest.raises(ValueError, match=r"unknown placeholder \{solution\}, allowed is none"):
        Texts(instruction="Improve {solution}.")


@pytest.mark.parametrize("name", [*NAMES, "instruction"])
def test_a_lone_brace_is_refused_with_what_to_write(name):
    with pytest.raises(ValueError, match=rf"texts\.{name}: .* write \{{\{{ and \}}\}} for a brace"):
        Texts(**{name: "Answer in { braces."})


@pytest.mark.parametrize("name", [*NAMES, "instruction"])
@pytest.mark.parametrize("around", ["{}\n", " {}", "", "  "])
def test_whitespace_around_a_text_is_refused_with_what_to_write(name, around):
    text = around.format(getattr(Texts(), name))
    with pytest.raises(ValueError, match=rf"texts\.{name} must not be blank .*\|-"):
        Texts(**{name: text})


@pytest.mark.parametrize("marker", ["", " ", "\n"])
def test_a_marker_that_nobody_sees_is_refused(marker):
    with pytest.raises(ValueError, match=r"texts\.marker must not be blank"):
        Texts(marker=marker)
