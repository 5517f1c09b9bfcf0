"""Whose teacher is shown what: a sibling's success, the environment's feedback, the own attempt.

Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", 2026,
https://arxiv.org/abs/2601.20802; ``_maybe_build_self_distillation_batch`` and what it calls in
``ray_trainer.py`` of https://github.com/lasgroup/SDPO.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from verl_ext.self_teaching.thinking import without_thinking
from verl_ext.tensor_ops import label_index

# Why a row has no teacher prompt: it succeeded and there is no other response to show it; it failed
# and nobody in its group succeeded, nothing was said about it, or neither; the prompt is too long.
Reason = Literal["own_success", "no_success", "no_feedback", "no_success_no_feedback", "too_long"]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True)
class Rules:
    """Which hints a teacher may get.

    Attributes:
        include_solution: the response of a sibling (a row of the same group) that succeeded.
        include_feedback: what the environment said about the row's own response.
        include_attempt: the row's own failed response, beside one of the other two.
        feedback_only_without_solution: feedback is for rows without a sibling's solution.
        dont_reprompt_on_self_success: a row's own success is no solution for itself.
        remove_thinking: solutions are shown without their thoughts (not the own attempt).
        thinking_tags: what a thought begins and ends with.
        success_threshold: a score of at least this much is a success.

    The defaults are those of the authors' ``actor.yaml``.

    Raises:
        ValueError: there is neither solution nor feedback to learn from, the tags are blank or
            equal, or the threshold is not finite.
    """

    include_solution: bool = True
    include_feedback: bool = True
    include_attempt: bool = False
    feedback_only_without_solution: bool = True
    dont_reprompt_on_self_success: bool = True
    remove_thinking: bool = True
    thinking_tags: tuple[str, str] = ("<think>", "</think>")
    success_threshold: float = 0.5

    def __post_init__(self) -> None:
        if not (self.include_solution or self.include_feedback):
            raise ValueError(
                "include_solution and include_feedback are both off, so that no teacher knows more "
                "than its student: switch one on"
            )
        if len({tag.strip() for tag in self.thinking_tags} - {""}) != 2:
            raise ValueError(
                f"thinking_tags must be two different texts, got {self.thinking_tags!r}"
            )
        if not math.isfinite(self.success_threshold):
            raise ValueError(f"success_threshold must be finite, got {self.success_threshold}")


@dataclass(frozen=True)
class Choice:
    """What one row's teacher is shown; None where nothing is.

    Attributes:
        solution_row: whose response is shown.
        solution: that response, without its thoughts if the rules say so.
        feedback: the environment's, as it came.
        attempt: the row's own response, as it came.
        reason: why there is neither solution nor feedback; None if there is.
    """

    solution_row: int | None = None
    solution: str | None = None
    feedback: str | None = None
    attempt: str | None = None
    reason: Reason | None = None


def choose(
    group_ids: Sequence[Hashable],
    scores: Sequence[float],
    responses: Sequence[str],
    feedback: Sequence[str | None],
    rules: Rules,
) -> list[Choice]:
    """What each row's teacher is shown, or why it has none.

    The solution is the group's first success in the order of the batch.

    Args:
        group_ids: one per row; rows with equal ids answer the same prompt.
        scores: of each response, on the scale of ``rules.success_threshold``; a list, an array or
            a tensor.
        responses: decoded, without special tokens: what a model writes as one would end its
            section in the teacher's chat.
        feedback: on each response; None where there is none.
        rules: which hints there may be.

    Raises:
        ValueError: the arguments differ in length, a score is NaN or infinite, or a feedback is
            neither text nor None.

    Degenerate: a group of one has no siblings, so only feedback on a failure can teach it. A lone
    success teaches its siblings and not itself. Blank feedback is none; a success that is blank
    without its thoughts shows nothing, and the next one is taken.

    Deviations: a row that succeeded never gets feedback or its own attempt, whose texts say that it
    failed; the authors' code does not check. Blank successes are passed over; theirs are shown.
    """
    rows = len(responses)
    groups = label_index("group_ids", group_ids, rows, torch.device("cpu")).tolist()
    succeeded = [score >= rules.success_threshold for score in _checked_scores(scores, rows)]
    _require_feedback(feedback, rows)
    solutions = _solutions(succeeded, responses, rules)
    by_group: dict[int, list[int]] = {}
    for row in solutions:
        by_group.setdefault(groups[row], []).append(row)
    choices = []
    for row, group in enumerate(groups):
        own = row if rules.dont_reprompt_on_self_success else None
        source = next((other for other in by_group.get(group, []) if other != own), None)
        said = None if succeeded[row] else _usable_feedback(feedback[row], source, rules)
        if source is None and said is None:
            choices.append(Choice(reason=_reason(succeeded[row], rules)))
            continue
        shows_attempt = rules.include_attempt and not succeeded[row] and responses[row].strip()
        attempt = responses[row] if shows_attempt else None
        solution = None if source is None else solutions[source]
        choices.append(Choice(source, solution, said, attempt))
    return choices


def _solutions(succeeded: Sequence[bool], responses: Sequence[str], rules: Rules) -> dict[int, str]:
    """The successes that show something, by row and in the order of the batch."""
    if not rules.include_solution:
        return {}
    texts = {row: responses[row] for row, success in enumerate(succeeded) if success}
    if rules.remove_thinking:
        texts = {row: without_thinking(text, *rules.thinking_tags) for row, text in texts.items()}
    return {row: text for row, text in texts.items() if text.strip()}


def _usable_feedback(said: str | None, source: int | None, rules: Rules) -> str | None:
    """The feedback on a failure, if there is any and it is to be shown."""
    replaced = source is not None and rules.feedback_only_without_solution
    if not rules.include_feedback or replaced or said is None or not said.strip():
        return None
    return said


def _reason(succeeded: bool, rules: Rules) -> Reason:
    """What a row without a hint lacks."""
    if succeeded:
        return "own_success"
    if not rules.include_feedback:
        return "no_success"
    return "no_success_no_feedback" if rules.include_solution else "no_feedback"


def _checked_scores(scores: Sequence[float], rows: int) -> list[float]:
    """The scores as numbers, one per row."""
    values = [float(score) for score in scores]
    if len(values) != rows:
        raise ValueError(f"scores must have one per response: {rows} rows, {len(values)} scores")
    for row, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"scores must be finite, got {value} in row {row}: mend the reward")
    return values


def _require_feedback(feedback: Sequence[str | None], rows: int) -> None:
    """Refuses feedback that does not belong to the rows, or is no text."""
    if len(feedback) != rows:
        raise ValueError(
            f"feedback must have one entry per response: {rows} rows, {len(feedback)} entries; "
            "None stands for none"
        )
    for row, said in enumerate(feedback):
        if not (said is None or isinstance(said, str)):
            raise ValueError(
                f"feedback must be text or None, got {type(said).__name__} in row {row}: let the "
                'reward function return "" where it has nothing to say'
            )
