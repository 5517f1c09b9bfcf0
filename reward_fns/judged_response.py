"""What a judge is shown of a response: its reasoning, its tool calls and its answer, apart."""

import re
from collections.abc import Sequence

from verl_ext.reward_fns.judge_prompt import JudgedResponse

_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_REASONING_ENDS = "</think>"
_REASONING_BEGINS = "<think>"


def judged_response(turns: Sequence[str]) -> JudgedResponse:
    """Takes the policy's turns apart.

    The answer is the last turn, without the reasoning before ``</think>`` and without tool calls;
    reasoning is everything else that the policy has said. A last turn whose reasoning has not ended
    has no answer.

    Args:
        turns: the policy's own texts in order, none of the tools'.
    """
    calls: list[str] = []
    reasoning: list[str] = []
    answer = ""
    for number, turn in enumerate(turns):
        calls += [call.strip() for call in _TOOL_CALL.findall(turn)]
        said = _TOOL_CALL.sub("", turn)
        thought, ended, rest = said.rpartition(_REASONING_ENDS)
        if not ended and _REASONING_BEGINS in said:
            thought, rest = said, ""
        if number < len(turns) - 1:
            thought, rest = f"{thought}\n{rest}", ""
        reasoning.append(thought.replace(_REASONING_BEGINS, "").replace(_REASONING_ENDS, ""))
        answer = rest.strip()
    text = "\n".join(filter(None, (part.strip() for part in reasoning)))
    return JudgedResponse(reasoning=text, tool_calls=tuple(calls), answer=answer)
