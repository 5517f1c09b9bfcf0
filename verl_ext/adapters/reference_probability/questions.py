"""The training data's questions with a reference, and what is wrong with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.adapters.reference_probability.base_scores import question_key
from verl_ext.adapters.reference_probability.settings import DEFAULT, KEY, ReferenceProbability
from verl_ext.adapters.reference_probability.splicer import Splicer
from verl_ext.reward_fns.splice import Outcome, SplicedTokens

SHOWN = 5  # row numbers in an error
REMEDIES = {
    Outcome.EMPTY_REFERENCE: "an empty reference answer",
    Outcome.REFERENCE_HAS_TAG: "a reference answer that holds one of the tags or the "
    "end-of-sequence text",
    Outcome.TOO_LONG: "a reference answer that is by itself longer than data.max_response_length",
}


@dataclass(frozen=True)
class Question:
    """A prompt of the training data and the answer that is expected.

    Attributes:
        key: of :func:`question_key`.
        chat: the prompt's messages.
        answer: the reference without reasoning, in tokens.
    """

    key: str
    chat: Any
    answer: SplicedTokens


def key_of(row: Mapping[str, Any]) -> str:
    """The key of a row of the data."""
    return question_key(row["raw_prompt"], row["reward_model"]["ground_truth"])


def questions(
    rows: Sequence[Mapping[str, Any]] | Any,
    wanted: ReferenceProbability,
    splicer: Splicer,
    max_tokens: int,
) -> dict[str, Question]:
    """The questions that are to be rewarded by their reference, by key.

    Args:
        rows: a data set of verl's.
        wanted: the settings.
        splicer: of the run.
        max_tokens: of a response.

    Raises:
        SettingsError: references that no response could be rewarded by, with their rows; a data
            source in ``weights`` that is not in the data.
    """
    found: dict[str, Question] = {}
    faults: dict[Outcome, list[int]] = {}
    sources: set[str] = set()
    for number, row in _numbered(rows):
        source = str(row["data_source"])
        sources.add(source)
        if wanted.weights_of(source).probability == 0:
            continue
        reference = row["reward_model"]["ground_truth"]
        outcome = _fault(reference, splicer)
        answer = splicer.alone(reference, max_tokens=max_tokens) if outcome is None else None
        if answer is not None and answer.outcome is Outcome.OK:
            key = key_of(row)
            found[key] = Question(key, row["raw_prompt"], answer)
        else:
            faults.setdefault(outcome or answer.outcome, []).append(number)  # type: ignore[union-attr]
    _refuse(faults)
    refuse_unknown(f"{KEY}.weights", set(wanted.weights) - {DEFAULT}, sorted(sources))
    return found


def _numbered(rows: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number in range(len(rows)):
        yield number, rows[number]


def _fault(reference: Any, splicer: Splicer) -> Outcome | None:
    if not isinstance(reference, str) or not reference.strip():
        return Outcome.EMPTY_REFERENCE
    marks = (*splicer.tags.all, splicer.tokenizer.eos_token)
    return Outcome.REFERENCE_HAS_TAG if any(mark in reference for mark in marks) else None


def _refuse(faults: Mapping[Outcome, list[int]]) -> None:
    if not faults:
        return
    told = "; ".join(
        f"{len(numbers)} rows have {REMEDIES[outcome]} "
        f"(rows {', '.join(map(str, numbers[:SHOWN]))}{', ...' if len(numbers) > SHOWN else ''})"
        for outcome, numbers in faults.items()
    )
    raise SettingsError(
        f"data.train_files: {told}. Correct or drop them, or give their data source another reward:"
        f" {KEY}.weights.SOURCE={{probability: 0, verifier: 1}}"
    )
