"""The prompt of a policy's own teacher: the student's, with hints in its last message.

Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", 2026,
https://arxiv.org/abs/2601.20802; ``_maybe_build_self_distillation_batch`` in ``ray_trainer.py`` of
https://github.com/lasgroup/SDPO.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_ext.self_teaching.choice import REASONS, Choice, Reason
from verl_ext.self_teaching.shorten import most, shorten
from verl_ext.self_teaching.texts import Texts

Messages = list[dict[str, Any]]
# A section of which fewer characters are left tells a teacher nothing.
LEAST_CHARACTERS = 16


@dataclass(frozen=True)
class TeacherPrompt:
    """One row's teacher prompt.

    Attributes:
        messages: the chat; None if the row has no teacher prompt.
        reason: why it has none; None if it has one.
        shortened: was something cut out of a section?
    """

    messages: Messages | None
    reason: Reason | None
    shortened: bool = False


def teacher_prompt(
    raw_prompt: Sequence[Mapping[str, Any]],
    choice: Choice,
    texts: Texts,
    *,
    count: Callable[[Messages], int],
    max_tokens: int,
) -> TeacherPrompt:
    """The student's chat with the hints in its last message, or why there is none.

    The last message becomes: what it said, the solution, the feedback, the own attempt (those that
    were chosen), the instruction; blank lines between them. Every other message and every other key
    stays. A prompt that is too long is shortened inside the sections, in their middle, all to the
    same number of characters, so that a short section stays whole: never in the question, the
    instruction or what the chat template adds. It is as long as fits, up to a character.

    Args:
        raw_prompt: the student's chat, whose last message is a user's and text.
        choice: what to show.
        texts: the wording.
        count: tokens of a chat as rendered for the teacher, the header that opens its answer
            included. Called once for a prompt that fits, else at most 2 + log₂ of the longest
            section's characters times.
        max_tokens: the most there may be, ≥ 1.

    Raises:
        ValueError: the chat is empty or its last message is not a user's or not text; or
            ``max_tokens`` is no whole number ≥ 1.

    Degenerate: a prompt that is too long even with each section cut to 16 characters
    (``LEAST_CHARACTERS``) and the marker is none at all, reason ``"too_long"``.

    Deviations: the authors' code cuts the rendered prompt at its end, and with it the instruction
    and the header of the teacher's answer.
    """
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise ValueError(f"max_tokens must be a whole number >= 1, got {max_tokens!r}")
    chat = _checked_chat(raw_prompt)
    if choice.reason is not None:
        return TeacherPrompt(None, choice.reason)

    def within(characters: int) -> Messages:
        return _with_hints(chat, choice, texts, characters)

    longest = max(len(hint or "") for hint in (choice.solution, choice.feedback, choice.attempt))
    whole = within(longest)
    if count(whole) <= max_tokens:
        return TeacherPrompt(whole, None)
    least = LEAST_CHARACTERS + len(texts.marker)
    characters = most(lambda tried: count(within(tried)) <= max_tokens, least, longest)
    if characters is None:
        return TeacherPrompt(None, "too_long")
    return TeacherPrompt(within(characters), None, shortened=True)


def prompt_shares(prompts: Sequence[TeacherPrompt]) -> dict[str, float]:
    """Shares of all rows, always the same keys: metrics.

    Args:
        prompts: one per row, at least one.

    Returns:
        ``taught``, the share with a teacher prompt, and one share per reason, which add up to 1;
        ``shortened``, the share whose prompt was cut, a part of ``taught``.

    Raises:
        ValueError: there are no rows.
    """
    if not prompts:
        raise ValueError("prompts is empty: there is nothing to take a share of")
    reasons = [prompt.reason for prompt in prompts]
    counts = {"taught": reasons.count(None)} | {name: reasons.count(name) for name in REASONS}
    counts["shortened"] = sum(prompt.shortened for prompt in prompts)
    return {name: number / len(prompts) for name, number in counts.items()}


def _checked_chat(raw_prompt: Sequence[Mapping[str, Any]]) -> Messages:
    """A copy of the chat, if hints can be added to its last message."""
    chat = [dict(message) for message in raw_prompt]
    if not chat:
        raise ValueError("raw_prompt has no messages, so there is no question to add hints to")
    role, content = chat[-1].get("role"), chat[-1].get("content")
    if role != "user" or not isinstance(content, str):
        raise ValueError(
            "raw_prompt must end in a user's message that is text (no images, no tool's answer): "
            f"got role {role!r} with content of type {type(content).__name__}; leave such prompts "
            "out of the training data"
        )
    return chat


def _with_hints(chat: Messages, choice: Choice, texts: Texts, characters: int) -> Messages:
    """The chat with each hint within a number of characters."""
    parts = [chat[-1]["content"]]
    for name in ("solution", "feedback", "attempt"):
        hint = getattr(choice, name)
        if hint is not None:
            short = shorten(hint, characters, texts.marker)
            parts.append(getattr(texts, name).format(**{name: short}))
    # Without placeholders, but a brace that is none is written twice there too.
    parts.append(texts.instruction.format())
    return [*chat[:-1], {**chat[-1], "content": "\n\n".join(parts)}]
