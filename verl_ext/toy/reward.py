"""The reward of the toy world: 1 for exactly the right word, 0 for any other."""

import difflib
from typing import Any

from verl_ext.toy.task import DATA_SOURCES
from verl_ext.toy.tokenizer import END, PAD


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    """Returns ``{"score": r, "acc": r}`` with r = 1.0 for an exact match, else 0.0.

    Args:
        data_source: one of ``DATA_SOURCES``.
        solution_str: the decoded response. verl skips special tokens when it decodes; where a
            caller keeps them, one end-of-turn token and the padding after it are removed.
            Nothing else is: a space, a different case or a second line is a wrong answer.
        ground_truth: the right word, not empty.
        extra_info: not used; part of verl's calling convention.
        **kwargs: not used; part of verl's calling convention.

    Raises:
        TypeError: the response or the right word is not text.
        ValueError: the data source is unknown, or the right word is empty.

    Degenerate: an empty response is wrong, since no right word is empty.
    """
    if data_source not in DATA_SOURCES:
        near = difflib.get_close_matches(str(data_source), DATA_SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"data_source must be one of {DATA_SOURCES}, got {data_source!r}{hint}")
    for name, value in (("solution_str", solution_str), ("ground_truth", ground_truth)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, got {type(value).__name__}")
    if not ground_truth:
        raise ValueError("ground_truth is empty; every toy problem has an answer")
    while solution_str.endswith(PAD):
        solution_str = solution_str.removesuffix(PAD)
    correct = float(solution_str.removesuffix(END) == ground_truth)
    return {"score": correct, "acc": correct}
