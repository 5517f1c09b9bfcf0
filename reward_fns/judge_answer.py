"""How a judge's answer is read: one JSON object of numbers, and nothing else.

What is not exactly that is a failure: no digit is fished out of prose, where a response could have
put it.
"""

import json
from enum import Enum
from typing import Any

PAIR = ("first", "second")  # fields of an answer about two responses
SINGLE = ("score",)  # about one


class Fault(Enum):
    """What is wrong with a judge's answer."""

    MALFORMED = "malformed"  # not one JSON object
    WRONG_FIELDS = "wrong_fields"  # one more, one less, or one twice
    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"


class AnswerError(ValueError):
    """An answer that is not what was asked for.

    Attributes:
        fault: in which way.
    """

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def pair_format(max_score: float) -> dict[str, Any]:
    """The ``response_format`` of a request about two responses."""
    return _format("scores_of_two_responses", PAIR, max_score)


def single_format(max_score: float) -> dict[str, Any]:
    """The ``response_format`` of a request about one response."""
    return _format("score_of_one_response", SINGLE, max_score)


def parse_pair(text: str, max_score: float) -> tuple[float, float]:
    """Reads the scores of two responses.

    Args:
        text: the judge's whole answer.
        max_score: the best score; the least is 0.

    Returns:
        The scores of the first and of the second response shown.

    Raises:
        AnswerError: the text is anything but one JSON object with exactly the fields ``first`` and
            ``second``, both numbers in range.
    """
    first, second = _parse(text, PAIR, max_score)
    return first, second


def parse_single(text: str, max_score: float) -> float:
    """Reads the score of one response.

    Args:
        text: the judge's whole answer.
        max_score: the best score; the least is 0.

    Raises:
        AnswerError: the text is anything but one JSON object with exactly the field ``score``, a
            number in range.
    """
    (score,) = _parse(text, SINGLE, max_score)
    return score


def _format(name: str, fields: tuple[str, ...], max_score: float) -> dict[str, Any]:
    number = {"type": "number", "minimum": 0, "maximum": max_score}
    schema = {
        "type": "object",
        "properties": {field: dict(number) for field in fields},
        "required": list(fields),
        "additionalProperties": False,
    }
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "strict": True, "schema": schema},
    }


def _parse(text: str, fields: tuple[str, ...], max_score: float) -> list[float]:
    try:
        # As pairs, so that a field that stands there twice is seen.
        pairs = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        raise AnswerError(Fault.MALFORMED, f"not JSON: {_short(text)}") from error
    if not isinstance(pairs, _Object):
        raise AnswerError(Fault.MALFORMED, f"not a JSON object: {_short(text)}")
    if sorted(key for key, _ in pairs) != sorted(fields):
        raise AnswerError(Fault.WRONG_FIELDS, f"not the fields {fields}: {_short(text)}")
    values = dict(pairs)
    return [_score(values[field], max_score, text) for field in fields]


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs; an array stays a list."""


def _score(value: Any, max_score: float, text: str) -> float:
    if type(value) not in (int, float) or value != value:  # a bool is an int, NaN is not itself
        raise AnswerError(Fault.NOT_A_NUMBER, f"not a number: {_short(text)}")
    if not 0 <= value <= max_score:
        raise AnswerError(Fault.OUT_OF_RANGE, f"not in [0, {max_score:g}]: {_short(text)}")
    return float(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
