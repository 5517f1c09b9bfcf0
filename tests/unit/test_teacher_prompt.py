import pytest

from verl_ext.self_teaching.choice import REASONS, Choice
from verl_ext.self_teaching.prompt import LEAST_CHARACTERS, TeacherPrompt, prompt_shares
from verl_ext.self_teaching.prompt import teacher_prompt as build
from verl_ext.self_teaching.texts import Texts

TEXTS = Texts(
    solution="Right:\n{solution}",
    feedback="Said:\n{feedback}",
    attempt="Wrong:\n{attempt}",
    instruction="Again.",
    marker=" ... ",
)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
HEADER = 10  # what this chat template adds


def count(messages):
    """A template whose tokens are characters."""
    return sum(len(message["content"]) for message in messages) + HEADER


def teacher_prompt(choice, chat=CHAT, texts=TEXTS, *, max_tokens=10_000, count=count):
    return build(chat, choice, texts, count=count, max_tokens=max_tokens)


def said_to_teacher(choice, **settings):
    return teacher_prompt(choice, **settings).messages[-1]["content"]


# ---- what it says


@pytest.mark.parametrize(
    ("choice", "content"),
    [
        (Choice(0, "2"), "1 + 1?\n\nRight:\n2\n\nAgain."),
        (Choice(feedback="no"), "1 + 1?\n\nSaid:\nno\n\nAgain."),
        (Choice(0, "2", "no"), "1 + 1?\n\nRight:\n2\n\nSaid:\nno\n\nAgain."),
        (Choice(0, "2", None, "3"), "1 + 1?\n\nRight:\n2\n\nWrong:\n3\n\nAgain."),
        (
            Choice(0, "2", "no", "3"),
            "1 + 1?\n\nRight:\n2\n\nSaid:\nno\n\nWrong:\n3\n\nAgain.",
        ),
    ],
)
def test_the_parts_stand_in_order_with_blank_lines_between(choice, content):
    assert said_to_teacher(choice) == content


def test_the_default_wording_shows_everything_and_ends_in_the_instruction():
    content = said_to_teacher(Choice(0, "SOLUTION", "FEEDBACK", "ATTEMPT"), texts=Texts())
    places = [content.index(hint) for hint in ("1 + 1?", "SOLUTION", "FEEDBACK", "ATTEMPT")]
    assert places == sorted(places)
    assert content.endswith("\n\n" + Texts().instruction)


def test_braces_in_a_hint_stay_and_doubled_ones_in_a_text_become_one():
    texts = Texts(solution="{{x}} {solution}", instruction='Answer {{"output": ...}}.')
    content = said_to_teacher(Choice(0, "{solution} {{}} %s {0}"), texts=texts)
    assert "\n\n{x} {solution} {{}} %s {0}\n\n" in content
    assert content.endswith('\n\nAnswer {"output": ...}.')


def test_in_a_chat_of_several_turns_only_the_last_message_is_written_anew():
    chat = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2", "tool_calls": []},
        {"role": "user", "content": "And twice that?", "name": "Ada"},
    ]
    messages = teacher_prompt(Choice(feedback="no"), chat).messages
    assert messages[:2] == chat[:2]
    assert messages[2]["content"].startswith("And twice that?\n\nSaid:")
    assert {**messages[2], "content": None} == {**chat[2], "content": None}


def test_the_students_prompt_is_not_changed():
    chat = [dict(message) for message in CHAT]
    teacher_prompt(Choice(0, "2"), chat).messages[0]["content"] = "changed"
    assert chat == CHAT


def test_a_row_without_a_hint_has_no_prompt_and_its_reason_and_nothing_is_counted():
    prompt = teacher_prompt(Choice(reason="no_success"), count=None)
    assert prompt == TeacherPrompt(None, "no_success")


# ---- too long

SOLUTION = "".join(chr(ord("a") + i % 26) for i in range(200))
# "1 + 1?" 6, "Be brief." 9, "Right:\n" 7, "Again." 6, two blank lines 4, and the header: 42.
AROUND_SOLUTION = 42


@pytest.mark.parametrize("room", [21, 22, 100, 199])
def test_a_long_solution_is_cut_in_its_middle_to_exactly_what_fits(room):
    prompt = teacher_prompt(Choice(0, SOLUTION), max_tokens=AROUND_SOLUTION + room)
    assert prompt.shortened
    assert count(prompt.messages) == AROUND_SOLUTION + room
    kept = room - len(TEXTS.marker)
    head, tail = SOLUTION[: -(-kept // 2)], SOLUTION[200 - kept // 2 :]
    expected = f"1 + 1?\n\nRight:\n{head} ... {tail}\n\nAgain."
    assert prompt.messages[-1]["content"] == expected


def test_what_just_fits_is_left_whole_and_counted_once():
    calls = []

    def counting(messages):
        calls.append(messages)
        return count(messages)

    prompt = teacher_prompt(Choice(0, SOLUTION), max_tokens=AROUND_SOLUTION + 200, count=counting)
    assert not prompt.shortened
    assert SOLUTION in prompt.messages[-1]["content"]
    assert len(calls) == 1


def test_what_does_not_fit_with_sixteen_characters_is_no_prompt():
    # 16 characters and the marker's 5 are 21.
    assert LEAST_CHARACTERS == 16
    choice = Choice(0, SOLUTION)
    assert teacher_prompt(choice, max_tokens=AROUND_SOLUTION + 21).reason is None
    prompt = teacher_prompt(choice, max_tokens=AROUND_SOLUTION + 20)
    assert prompt == TeacherPrompt(None, "too_long")


def test_a_question_or_a_short_hint_is_never_cut():
    long_question = [{"role": "user", "content": "q" * 1000}]
    prompt = teacher_prompt(Choice(0, SOLUTION), long_question, max_tokens=1000)
    assert prompt == TeacherPrompt(None, "too_long")
    # A hint of at most 21 characters would not be shorter for being cut.
    prompt = teacher_prompt(Choice(0, "s" * 21), max_tokens=AROUND_SOLUTION + 20)
    assert prompt == TeacherPrompt(None, "too_long")


def test_sections_are_cut_to_one_length_so_that_a_short_one_stays_whole():
    choice = Choice(0, SOLUTION, "f" * 50, "t" * 150)
    # "Said:\n" 6 and "Wrong:\n" 7 with a blank line each: 17 more around the hints. Of 250 for the
    # hints 50 are the feedback's, and 100 each remain for the other two.
    prompt = teacher_prompt(choice, max_tokens=AROUND_SOLUTION + 17 + 250)
    _, solution, feedback, attempt, instruction = prompt.messages[-1]["content"].split("\n\n")
    assert solution == f"Right:\n{SOLUTION[:48]} ... {SOLUTION[-47:]}"
    assert feedback == "Said:\n" + "f" * 50
    assert attempt == "Wrong:\n" + "t" * 48 + " ... " + "t" * 47
    assert instruction == "Again."


def test_a_feedback_of_a_million_characters_takes_twenty_counts():
    calls = []

    def counting(messages):
        calls.append(messages)
        return count(messages)

    choice = Choice(feedback="f" * 1_000_000)
    prompt = teacher_prompt(choice, max_tokens=1000, count=counting)
    assert count(prompt.messages) == 1000
    assert len(calls) <= 22


def test_with_tokens_that_merge_the_prompt_still_fits_and_is_the_same_each_time():
    def merged(messages):  # runs of one letter are one token
        text = "".join(message["content"] for message in messages)
        return sum(a != b for a, b in zip(text, text[1:] + "\0", strict=True))

    choice = Choice(0, "aaaabbbccd" * 30)
    prompts = [teacher_prompt(choice, max_tokens=80, count=merged) for _ in range(2)]
    assert prompts[0] == prompts[1]
    assert prompts[0].shortened
    assert 75 <= merged(prompts[0].messages) <= 80


# ---- shares


def test_shares_of_taught_rows_and_of_reasons_add_up_to_one():
    messages = CHAT
    prompts = [
        TeacherPrompt(messages, None),
        TeacherPrompt(messages, None, shortened=True),
        TeacherPrompt(None, "own_success"),
        TeacherPrompt(None, "too_long"),
        TeacherPrompt(None, "too_long"),
    ]
    shares = prompt_shares(prompts)
    assert shares == {
        "taught": 0.4,
        "own_success": 0.2,
        "no_success": 0,
        "no_feedback": 0,
        "no_success_no_feedback": 0,
        "too_long": 0.4,
        "shortened": 0.2,
    }
    assert set(shares) == {"taught", "shortened", *REASONS}


def test_shares_of_nothing_are_refused():
    with pytest.raises(ValueError, match="prompts is empty"):
        prompt_shares([])


# ---- what is refused


@pytest.mark.parametrize(
    ("last", "shown"),
    [
        ({"role": "assistant", "content": "2"}, "role 'assistant' with content of type str"),
        ({"role": "tool", "content": "2"}, "role 'tool'"),
        ({"role": "user", "content": [{"type": "image"}]}, "role 'user' with .* type list"),
        ({"role": "user", "content": None}, "type NoneType"),
        ({"role": "user"}, "type NoneType"),
    ],
)
@pytest.mark.parametrize("choice", [Choice(0, "2"), Choice(reason="no_success")])
def test_a_chat_that_does_not_end_in_a_users_text_is_refused(last, shown, choice):
    with pytest.raises(ValueError, match=f"must end in a user's message that is text.*{shown}"):
        teacher_prompt(choice, [*CHAT, last])


def test_a_chat_without_messages_is_refused():
    with pytest.raises(ValueError, match="raw_prompt has no messages"):
        teacher_prompt(Choice(0, "2"), [])


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None])
def test_a_limit_that_is_no_number_of_tokens_is_refused(limit):
    with pytest.raises(ValueError, match="max_tokens must be a whole number >= 1"):
        teacher_prompt(Choice(0, "2"), max_tokens=limit)


def test_one_token_may_be_asked_for_and_holds_nothing():
    assert teacher_prompt(Choice(0, "s"), max_tokens=1) == TeacherPrompt(None, "too_long")
