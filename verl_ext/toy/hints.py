"""Demonstrations with hints in their prompts, so that a toy policy can be its own teacher.

A policy that has never seen a hint judges its answers no better with one. A large model has seen
much like it; a toy model is shown it: the prompt that verl_ext.sdpo makes for a failure, with
another's right answer or with what the environment says, and then the right answer.
"""

import random
from collections.abc import Iterable, Iterator

from verl_ext.toy.feedback import feedback
from verl_ext.toy.task import Problem

# ``algorithm.verl_ext.teacher.texts`` on the toy: a model that reads letter by letter spends its
# half million weights better than on sentences that never change.
TEXTS = {"solution": "={solution}", "feedback": "?{feedback}", "attempt": "-{attempt}"}
TEXTS |= {"instruction": "!"}
SLIPS = 0.4  # share of the letters drawn anew, where an attempt is needed and there is a right one


def with_hints(
    demonstrations: Iterable[tuple[Problem, str]], share: float, alphabet: str, seed: int
) -> Iterator[tuple[str, str]]:
    """Yields (prompt, demonstrated answer); that share of the pairs' come with a hint.

    Half of the hints are solutions, the others feedback on a wrong answer: the demonstrated one,
    if it is wrong. With a hint the demonstration is always right.

    Args:
        demonstrations: (problem, demonstrated answer).
        share: of the problems of several functions, between 0 and 1.
        alphabet: of the letters in slips.
        seed: of which come with what.
    """
    rng = random.Random(f"hints of {seed}")
    for problem, answer in demonstrations:
        if len(problem.skills) > 1 and rng.random() < share:
            yield hinted(problem, answer, alphabet, rng), problem.answer
        else:
            yield problem.prompt, answer


def hinted(problem: Problem, answer: str, alphabet: str, rng: random.Random) -> str:
    """Returns a problem's prompt with a hint, in the words of a policy's own teacher.

    Args:
        problem: what is asked.
        answer: one that may be wrong.
        alphabet: of the letters in slips.
        rng: decides what is shown.
    """
    from verl_ext.self_teaching.choice import Choice
    from verl_ext.self_teaching.prompt import teacher_prompt
    from verl_ext.self_teaching.texts import Texts

    if answer == problem.answer:
        answer = "".join(rng.choice(alphabet) if rng.random() < SLIPS else c for c in answer)
    said = feedback(answer, problem.answer)
    choice = Choice(feedback=said)
    if not said or rng.random() < 0.5:
        choice = Choice(solution=problem.answer)
    chat = [{"role": "user", "content": problem.prompt}]
    made = teacher_prompt(chat, choice, Texts(**TEXTS), count=lambda _: 0, max_tokens=1)
    assert made.messages is not None
    return str(made.messages[-1]["content"])
