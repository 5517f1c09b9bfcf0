"""What the toy's simulated judge sees and no rule of the run does: how good an answer is."""

import re
from typing import Any

from verl_ext.toy.reward import answered_word, likeness
from verl_ext.toy.task import SKILLS, run

# Of group_reward.tournament under task=toy. Answers to a prompt differ by a point on average; a
# call's mood moves both of a pair by twice that, and each of them by half of it.
JUDGE: dict[str, Any] = {
    "base_url": "simulated",
    "model": "simulated",
    "quality": "verl_ext.toy.hidden_quality:quality",
    "low": 1.0,
    "high": 7.0,
    "noise": 0.5,
    "calibration": 2.0,
}
_PROMPT = re.compile(r"((?:f\d+\()+)([a-z]+)(\)+)=")


def quality(question: str, answer: str) -> float:
    """How like the right word an answer is, in [0, 1]; 1 for the right word alone.

    Args:
        question: a prompt of the toy, ``f3(f9(gab))=``.
        answer: the response, decoded.

    Raises:
        ValueError: the question is none of the toy's.
    """
    found = _PROMPT.fullmatch(question.strip())
    if found is None or found[1].count("(") != len(found[3]):
        raise ValueError(f"{question!r} is no question of the toy world")
    skills = [int(number) for number in re.findall(r"\d+", found[1])]
    if not set(skills) <= set(SKILLS):
        raise ValueError(f"{question!r} asks for functions that the toy world does not have")
    return likeness(answered_word(answer), run(skills[::-1], found[2]))
