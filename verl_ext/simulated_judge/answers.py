"""What the simulated judge says of a prompt: content, reason to end, tokens."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from verl_ext.reward_fns.judge_answer import PAIR, SINGLE
from verl_ext.reward_fns.judge_prompt import Case, JudgedResponse
from verl_ext.simulated_judge.annotator import Annotator, Shown
from verl_ext.simulated_judge.faults import Fault
from verl_ext.simulated_judge.quality import Quality

CHARACTERS_PER_TOKEN = 4  # about what tokenizers have in English


@dataclass(frozen=True)
class Judged:
    """A case with its hidden side.

    Attributes:
        case: what was asked.
        question: key of the question.
        keys: of the responses.
    """

    case: Case
    question: str
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """Stands for the whole case, in the order shown."""
        return _key([self.question, *self.keys])

    @property
    def first(self) -> str:
        """All text of the response shown first."""
        return "\n".join(_texts(self.case.responses[0]))


def judged(case: Case) -> Judged:
    """A case with its keys.

    Args:
        case: as read back from a prompt.
    """
    keys = tuple(_key(_texts(response)) for response in case.responses)
    return Judged(case, _key(case.question), keys)


def scores(asked: Judged, quality: Quality, annotator: Annotator) -> dict[str, float]:
    """The fields of the answer.

    Args:
        asked: the case.
        quality: the hidden one.
        annotator: who gives the scores.
    """
    users = [content for role, content in asked.case.question if role == "user"]
    question = users[-1] if users else ""
    shown = [
        Shown(quality(question, response.answer), key)
        for response, key in zip(asked.case.responses, asked.keys, strict=True)
    ]
    if len(shown) == 1:
        return {SINGLE[0]: annotator.single(asked.question, shown[0])}
    return dict(zip(PAIR, annotator.pair(asked.question, *shown), strict=True))


def completion(
    body: dict[str, Any], given: dict[str, float], fault: Fault | None, max_score: float
) -> dict[str, Any]:
    """A chat completion.

    Args:
        body: of the request.
        given: the fields of the answer.
        fault: of those whose answer is well-formed HTTP.
        max_score: the best score.
    """
    content, reason, refusal = json.dumps(given), "stop", None
    if fault is Fault.OUT_OF_RANGE:
        content = json.dumps(dict.fromkeys(given, max_score + 1))
    elif fault is Fault.MALFORMED:
        content = f"I would say {content}"
    elif fault is Fault.EMPTY:
        content = ""
    elif fault is Fault.TRUNCATED:
        content, reason = content[:-3], "length"
    elif fault is Fault.REFUSED:
        content, refusal = "", "I cannot judge that."
    prompt = sum(len(message["content"]) for message in body["messages"])
    counts = {"prompt_tokens": _tokens(prompt), "completion_tokens": _tokens(len(content))}
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {
        "id": "simulated",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {**counts, "total_tokens": sum(counts.values())},
    }


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def _texts(response: JudgedResponse) -> list[str]:
    return [response.reasoning, *response.tool_calls, response.answer]


def _key(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
