"""The rewards of the toy world: exactly the right word, or how near to it.

Three of the data sources stand for three kinds of task that are trained together in practice, with
the reward scales they come with. All three are highest for the right word alone, and there alone.

``toy_exact`` (and every source but the next two): 1 for the right word, else 0, like a checked
    answer. Spread 0.5, as wide as rewards in [0, 1] can be.
``toy_letters``: how like the right word, in [0, 1]. A forgotten function costs few letters, so most
    wrong answers get 0.6 to 0.9, like the grades of a lenient judge: the spread is about 0.16.
``toy_points``: 0 to 10 points for the letters before the first mistake, like a benchmark that
    counts solved parts. Spread about 3.6.

Under advantages that are only centred, a response's weight is its reward's scale: points teach,
letters hardly count. GRPO's deviation per prompt takes the scale away, and within a task the
difference between a prompt with a single slip and one that is half right; a deviation for the
whole batch keeps the imbalance. One deviation per task (``verl_ext.task_norm``) does neither.
"""

import difflib
import math
from collections.abc import Mapping
from typing import Any

from verl_ext.toy.task import DATA_SOURCES
from verl_ext.toy.tokenizer import END, PAD

POINTS = 10  # of the right word under toy_points


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    scales: Mapping[str, float] | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
) -> dict[str, float]:
    """Returns ``score``, the reward of the data source, and ``acc``, 1.0 for the right word else 0.

    Args:
        data_source: one of ``DATA_SOURCES``.
        solution_str: the decoded response. verl skips special tokens when it decodes; where a
            caller keeps them, one end-of-turn token and the padding after it are removed.
            Nothing else is: a space, a different case or a second line is a mistake.
        ground_truth: the right word, not empty.
        extra_info: not used; part of verl's calling convention.
        scales: data source -> factor > 0 on its ``score``, 1 where none is given; ``acc`` stays
            0 or 1. In a run: ``reward.custom_reward_function.reward_kwargs.scales``.
        reward_router_address: not used; verl hands it over in runs with a reward model.
        reward_model_tokenizer: the same.

    Raises:
        TypeError: the response or the right word is not text.
        ValueError: the data source is unknown, the right word is empty, or ``scales`` names an
            unknown data source or a factor that is no finite number > 0.

    Degenerate: an empty response is wrong, since no right word is empty; it gets 0 everywhere.
    """
    require_data_source("data_source", data_source)
    check_scales(scales)
    require_texts(solution_str=solution_str, ground_truth=ground_truth)
    if not ground_truth:
        raise ValueError("ground_truth is empty; every toy problem has an answer")
    word = answered_word(solution_str)
    correct = float(word == ground_truth)
    score = correct
    if data_source == "toy_letters":
        score = likeness(word, ground_truth)
    elif data_source == "toy_points":
        score = points(word, ground_truth)
    return {"score": score * float((scales or {}).get(data_source, 1)), "acc": correct}


def require_texts(**values: Any) -> None:
    """Refuses values that are no texts, by their names.

    Raises:
        TypeError: names the first.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, got {type(value).__name__}")


def answered_word(solution_str: str) -> str:
    """Returns the response without one end-of-turn token and the padding after it."""
    while solution_str.endswith(PAD):
        solution_str = solution_str.removesuffix(PAD)
    return solution_str.removesuffix(END)


def require_data_source(name: str, value: str) -> None:
    """Refuses what is no data source of the toy world; ``name`` is the parameter's.

    Raises:
        ValueError: names the nearest.
    """
    if value not in DATA_SOURCES:
        near = difflib.get_close_matches(str(value), DATA_SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {DATA_SOURCES}, got {value!r}{hint}")


def check_scales(scales: Mapping[str, float] | None) -> None:
    """Refuses factors that :func:`compute_score` cannot apply.

    Raises:
        ValueError: no mapping, an unknown data source, or no finite number > 0.
    """
    if scales is None:
        return
    if not isinstance(scales, Mapping):
        raise ValueError(f"scales must map data sources to factors, got {scales!r}")
    for data_source, factor in scales.items():
        require_data_source("a key of scales", data_source)
        is_number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        if not (is_number and 0 < factor < math.inf):
            raise ValueError(f"scales.{data_source} must be a finite number > 0, got {factor!r}")


def likeness(word: str, right: str) -> float:
    """Returns 1 − edits / (letters of both words together), 1 for the right word alone.

    The edits (Levenshtein, 1966) are the fewest letters to insert, remove or replace: those that
    need no edit are the right ones. An empty word gets 0, and only an empty one: for three letters
    that are all wrong, three of six are edited. Two words must not both be empty.
    """
    # From the letters of word read so far to each start of right.
    edits: list[int] = list(range(len(right) + 1))
    for read, letter in enumerate(word, start=1):
        diagonal, edits[0] = edits[0], read
        for place, other in enumerate(right, start=1):
            replaced = diagonal + (letter != other)
            diagonal = edits[place]
            edits[place] = min(replaced, edits[place] + 1, edits[place - 1] + 1)
    return 1.0 - edits[-1] / (len(word) + len(right))


def points(word: str, right: str) -> float:
    """Returns 10 × the letters before the first mistake / those of the longer word.

    A letter too few or too many is a mistake, so only the right word gets all 10.
    """
    before = 0
    while before < min(len(word), len(right)) and word[before] == right[before]:
        before += 1
    return POINTS * before / max(len(word), len(right))
