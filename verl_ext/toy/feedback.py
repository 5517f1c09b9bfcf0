"""The rewards of the toy world with a word on what went wrong: an environment with rich feedback.

A wrong answer is told one thing, the first that applies, and never enough to know the right word:

===================================  =====================================
the answer                           the feedback
===================================  =====================================
is empty                             ``Empty.``
has more letters than the right one  ``Too long.``
is the beginning of the right one    ``Right, but too short.``
has its first mistake at letter n,   ``Letter n is wrong.``
... a letter of the right word
... a letter the right word lacks    ``Letter n is wrong: there is no 'x'.``
===================================  =====================================

The length is never bounded from above beside a place: else the right letters before the mistake and
the length would leave a single word for an answer that is one letter too long.
"""

from typing import Any

from verl_ext.toy import reward


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **kw: Any,
) -> dict[str, float | str]:
    """Returns ``score`` and ``acc`` of :func:`verl_ext.toy.reward.compute_score`, and ``feedback``.

    Every answer has the same keys. ``feedback`` is "" for the right word and for no other, on every
    data source; verl leaves texts out of its validation averages.

    Args:
        data_source: as there.
        solution_str: as there.
        ground_truth: as there.
        extra_info: as there, not used.
        kw: as there: ``scales`` and what verl adds.

    Raises:
        TypeError: as there; also an unknown keyword.
        ValueError: as there.
    """
    scored = reward.compute_score(data_source, solution_str, ground_truth, extra_info, **kw)
    return {**scored, "feedback": feedback(reward.answered_word(solution_str), ground_truth)}


def feedback(word: str, right: str) -> str:
    """Returns what is wrong with a word, "" if nothing is; see the module's table.

    Args:
        word: the answer, without special tokens.
        right: the right word, not empty.
    """
    if word == right:
        return ""
    if not word:
        return "Empty."
    if len(word) > len(right):
        return "Too long."
    if right.startswith(word):
        return "Right, but too short."
    place = next(i for i, letter in enumerate(word) if letter != right[i])
    letter = word[place]
    hint = "" if letter in right else f": there is no {letter!r}"
    return f"Letter {place + 1} is wrong{hint}."
