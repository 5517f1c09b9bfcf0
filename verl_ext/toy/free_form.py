"""Free-form answers: one right word, several ways to write it, and the reasoning in front.

A response to ``f3(f9(gab))=`` gives the word before the outer function, then the final word in a
wording of its own: ``[gabbag]{ aabbgg }``, ``[gabbag]{ 'aabbgg' }``. The white space is what a
reference has around it where it stands in for an answer (``reward_fns.splice``).

Each prompt's reference is in one wording, a matter of chance; so equality with the reference calls
most right answers wrong. The reasoning decides the word, and nothing decides the wording.
"""

import hashlib
import random
import re
from collections.abc import Callable
from typing import NamedTuple

from verl_ext.toy.task import Problem, run

TAGS = {"think": ["[", "]"], "answer": ["{", "}"]}
# Few letters more than the word: a token is a letter. No wording holds a tag or white space.
WORDINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda word: word,
    "equation": lambda word: f"={word}",
    "quoted": lambda word: f"'{word}'",
    "stopped": lambda word: f"{word}.",
}
MAX_TOKENS = 32  # of a response, its end included; see tests/unit/test_toy_free_form.py
_RESPONSE = re.compile(r"\[([^][{}]*)\]\{([^][{}]*)\}")


class Response(NamedTuple):
    """A response in the format.

    Attributes:
        reasoning: the text between the first pair of tags.
        answer: that between the second, without white space around it.
    """

    reasoning: str
    answer: str


def rendered(reasoning: str, answer: str) -> str:
    """Returns a response in the format."""
    return f"[{reasoning}]{{ {answer} }}"


def parsed(response: str) -> Response | None:
    """Returns the parts of a response, None where it is not in the format.

    In the format is reasoning, then the answer, each between its tags, and nothing around or
    between them; each tag once. Either part may be empty.

    Args:
        response: decoded, without special tokens.
    """
    found = _RESPONSE.fullmatch(response)
    return Response(found[1], found[2].strip(" ")) if found else None


def word_of(text: str) -> str | None:
    """Returns the word that ``text`` is a wording of, None if it is a wording of no word."""
    word = re.sub("[^a-z]", "", text)
    return word if word and text in {write(word) for write in WORDINGS.values()} else None


def right(response: str, truth: str) -> bool:
    """Returns whether a response is in the format and has the right word, in whatever wording.

    Its reasoning is not judged.

    Args:
        response: decoded, without special tokens.
        truth: the right word, in any wording.

    Raises:
        ValueError: ``truth`` is a wording of no word.
    """
    word, found = true_word(truth), parsed(response)
    return found is not None and word_of(found.answer) == word


def true_word(truth: str) -> str:
    """Returns the word of a reference.

    Raises:
        ValueError: it is a wording of no word.
    """
    word = word_of(truth)
    if word is None:
        raise ValueError(f"the right answer must be a word {', '.join(WORDINGS)}; got {truth!r}")
    return word


def reference(problem: Problem) -> str:
    """Returns the right word in the problem's own wording, the same on every machine and run."""
    key = f"wording of {problem.prompt}".encode()
    place = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big")
    return list(WORDINGS.values())[place % len(WORDINGS)](problem.answer)


def reasoned(problem: Problem) -> str:
    """Returns the right reasoning: the word after every function but the outermost."""
    return run(problem.skills[:-1], problem.word)


def demonstration(problem: Problem, reasoning: str, rng: random.Random) -> str:
    """Returns a response whose answer follows from its reasoning, right or wrong.

    Args:
        problem: what is asked.
        reasoning: a word; the outermost function is applied to it.
        rng: decides the wording, whatever the problem's own is.
    """
    answer = run(problem.skills[-1:], reasoning)
    return rendered(reasoning, rng.choice(list(WORDINGS.values()))(answer))
