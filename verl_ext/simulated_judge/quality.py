"""The hidden quality of a response: a function that the judge knows and nobody else."""

import importlib
from collections.abc import Callable

Quality = Callable[[str, str], float]  # (question, answer) -> [0, 1]
FULL_LENGTH = 200  # characters


def length(question: str, answer: str) -> float:
    """An example: longer is better, up to 200 characters.

    Args:
        question: not looked at.
        answer: of the response.
    """
    return min(len(answer) / FULL_LENGTH, 1.0)


BUILT_IN: dict[str, Quality] = {"length": length}


def load(name: str) -> Quality:
    """The quality function of a name.

    Args:
        name: one of ours, or ``module:function``, ``quality(question, answer) -> float`` in [0, 1].

    Raises:
        ValueError: there is none of that name.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(
            f"quality must be module:function or one of {', '.join(BUILT_IN)}, got {name!r}"
        )
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"quality {name!r}: {error}") from error
    if not callable(found):
        raise ValueError(f"quality {name!r}: {module} has no function {function}")
    quality: Quality = found
    return quality
