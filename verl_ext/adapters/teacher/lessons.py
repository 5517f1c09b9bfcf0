"""What each row's own teacher reads: the row's prompt with hints, as token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_ext.adapters.teacher.rendering import Renderer
from verl_ext.self_teaching.choice import Choice, Rules, choose
from verl_ext.self_teaching.prompt import Messages, TeacherPrompt, teacher_prompt
from verl_ext.self_teaching.texts import Texts


@dataclass(frozen=True)
class Row:
    """What is known of a row when its batch is complete.

    Attributes:
        group_id: rows with equal ids answer the same prompt.
        score: of the response.
        response: decoded, without special tokens.
        chat: the data set's, which the response answers.
        prompt_ids: what the response continues.
        feedback: on the response, None if there is none.
    """

    group_id: str
    score: float
    response: str
    chat: Sequence[Mapping[str, Any]]
    prompt_ids: Sequence[int]
    feedback: Any = None


@dataclass(frozen=True)
class Lesson:
    """A row's teacher prompt.

    Attributes:
        prompt: the chat, or why there is none.
        ids: its tokens; empty if there is none.
    """

    prompt: TeacherPrompt
    ids: Sequence[int] = ()


@dataclass(frozen=True)
class Lessons:
    """Makes the teacher prompts of a batch.

    Attributes:
        render: chats to tokens.
        rules: who is shown what.
        texts: in which words.
        max_tokens: of a teacher prompt.
    """

    render: Renderer
    rules: Rules
    texts: Texts
    max_tokens: int

    def __call__(self, rows: Sequence[Row]) -> list[Lesson]:
        """One lesson per row.

        Raises:
            ValueError: of ``choose`` and ``teacher_prompt``.
            SettingsError: a response continues another prompt than its chat's.
        """
        choices = choose(
            [row.group_id for row in rows],
            [row.score for row in rows],
            [row.response for row in rows],
            [row.feedback for row in rows],
            self.rules,
        )
        return [self._lesson(row, choice) for row, choice in zip(rows, choices, strict=True)]

    def _lesson(self, row: Row, choice: Choice) -> Lesson:
        if choice.reason is not None:
            return Lesson(TeacherPrompt(None, choice.reason))
        tools = self.render.tools_of(row.chat, row.prompt_ids)
        rendered: dict[str, list[int]] = {}  # the last message is all that differs

        def count(messages: Messages) -> int:
            ids = rendered[messages[-1]["content"]] = self.render(messages, tools)
            return len(ids)

        made = teacher_prompt(row.chat, choice, self.texts, count=count, max_tokens=self.max_tokens)
        if made.messages is None:
            return Lesson(made)
        return Lesson(made, rendered[made.messages[-1]["content"]])


def feedback_of(extra_fields: Mapping[str, Any]) -> Any:
    """What a row's reward function said of the response, or its agent loop or a tool; or None.

    Args:
        extra_fields: verl's field of this name.
    """
    rewarded = extra_fields.get("reward_extra_info") or {}
    return rewarded["feedback"] if "feedback" in rewarded else extra_fields.get("feedback")
