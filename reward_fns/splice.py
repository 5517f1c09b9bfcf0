"""The reference answer in place of the response's own, and which tokens it is.

Source: Yu et al., "RLPR: Extrapolating RLVR to General Domains without Verifiers", 2025,
https://arxiv.org/abs/2506.18254, section 2; the strings from https://github.com/OpenBMB/RLPR.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from verl_ext.reward_fns.response_format import THINK_ANSWER, Tags, answer_start

Offsets: TypeAlias = Sequence[tuple[int, int]]
_WHITESPACE = " \n\t\r"


class Outcome(str, Enum):
    """What became of a response's reference probability; only ``OK`` has one.

    ``INVALID_FORMAT`` is the response's own doing: the paper rewards it with 0. The others are
    faults of the data, the limits or the server, and teach nothing.
    """

    OK = "ok"
    INVALID_FORMAT = "invalid_format"  # of the response
    EMPTY_REFERENCE = "empty_reference"  # or of white space alone
    REFERENCE_HAS_TAG = "reference_has_tag"  # or the end-of-sequence text
    TOO_LONG = "too_long"  # the spliced response, in tokens
    INVALID_LOG_PROB = "invalid_log_prob"  # of the reference: see InvalidLogProbs


def outcome_counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How often each outcome occurred; all are named, so that metrics keep their keys."""
    counts = Counter(outcomes)
    return {outcome.value: counts[outcome] for outcome in Outcome}


@dataclass(frozen=True)
class SplicedText:
    """A response with the reference as its answer.

    Attributes:
        outcome: ``OK``, or why there is no text.
        text: the spliced response; empty unless ``OK``.
        span: where the reference stands in it: first character and the one after the last.
    """

    outcome: Outcome
    text: str = ""
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class SplicedTokens:
    """A spliced response as tokens.

    Attributes:
        outcome: ``OK``, or why there are no tokens.
        token_ids: of the spliced response, without the prompt; empty unless ``OK``.
        reference_mask: for each of them, is it the reference's?
    """

    outcome: Outcome
    token_ids: tuple[int, ...] = ()
    reference_mask: tuple[bool, ...] = ()


def splice(response: str, reference: str, *, eos: str, tags: Tags = THINK_ANSWER) -> str | None:
    """The text of :func:`spliced_text`, or None where the response's format is invalid.

    Args:
        response: decoded, without the prompt.
        reference: the answer to put in place of the response's.
        eos: the end-of-sequence text.
        tags: of the reasoning and the answer.

    Raises:
        ValueError: the reference is empty, or holds a tag or ``eos``, so that no response could
            have it as an answer; or as :func:`spliced_text`.

    Deviations: as :func:`spliced_text`.
    """
    result = spliced_text(response, reference, eos=eos, tags=tags)
    if result.outcome in (Outcome.EMPTY_REFERENCE, Outcome.REFERENCE_HAS_TAG):
        raise ValueError(
            f"reference must not be empty or hold one of {', '.join((*tags.all, eos))}, "
            f"got {reference!r}: correct or drop the row of the data"
        )
    return result.text if result.outcome is Outcome.OK else None


def spliced_text(
    response: str, reference: str, *, eos: str, tags: Tags = THINK_ANSWER
) -> SplicedText:
    """The response up to the opening tag of its answer, then the reference, closed and ended.

        …<answer> + leading white space of the answer, or one space + reference + " </answer>" + eos

    Args:
        response: decoded, without the prompt. Valid is what
            :func:`~verl_ext.reward_fns.response_format.answer_start` says: the answer may be cut
            off or empty.
        reference: the answer to put in place of the response's, as it is.
        eos: the end-of-sequence text, not empty.
        tags: of the reasoning and the answer.

    Returns:
        The text and the reference's place in it, or the outcome that says why there is none. The
        reference is judged first: its faults are the data's, and no response could mend them.

    Raises:
        ValueError: ``eos`` is empty, or the reference is no string.

    Deviations: an empty reference and one with a tag have outcomes of their own; the authors' code
    crashes at the first and scores the second.
    """
    if not eos:
        raise ValueError("eos must be the tokenizer's end-of-sequence text, got ''")
    if not isinstance(reference, str):
        raise ValueError(f"reference must be a string, got {reference!r}: convert it in the data")
    if not reference.strip():
        return SplicedText(Outcome.EMPTY_REFERENCE)
    if any(mark in reference for mark in (*tags.all, eos)):
        return SplicedText(Outcome.REFERENCE_HAS_TAG)
    start = answer_start(response, tags=tags)
    if start is None:
        return SplicedText(Outcome.INVALID_FORMAT)
    answer = response[start:]
    leading = answer[: len(answer) - len(answer.lstrip(_WHITESPACE))] or " "
    before = response[:start] + leading
    span = (len(before), len(before) + len(reference))
    return SplicedText(Outcome.OK, f"{before}{reference} {tags.answer[1]}{eos}", span)


def spliced_tokens(
    spliced: SplicedText,
    encode: Callable[[str], tuple[Sequence[int], Offsets]],
    *,
    max_tokens: int,
) -> SplicedTokens:
    """The spliced response, tokenised anew, and the tokens of the reference.

    Args:
        spliced: of :func:`spliced_text`; an outcome other than ``OK`` is handed on.
        encode: gives a text's token ids and, for each, its characters (first, one after the
            last); it adds no special tokens and does not truncate.
        max_tokens: a longer spliced response is ``TOO_LONG``.

    Returns:
        The tokens to put after the prompt's, or the outcome that says why there are none.

    Raises:
        ValueError: ``max_tokens`` is not positive, or the offsets are not those of the text: see
            :func:`reference_mask`.

    Deviations: the prompt keeps the tokens that the policy saw; the authors' code tokenises prompt
    and response as one text, whose tokens may differ at the seam. Their response that is too long
    scores 0; here it is an outcome.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be >= 1, got {max_tokens}")
    if spliced.outcome is not Outcome.OK:
        return SplicedTokens(spliced.outcome)
    token_ids, offsets = encode(spliced.text)
    if len(token_ids) != len(offsets):
        raise ValueError(f"encode gave {len(token_ids)} tokens and {len(offsets)} offsets")
    if len(token_ids) > max_tokens:
        return SplicedTokens(Outcome.TOO_LONG)
    mask = reference_mask(offsets, spliced.span)
    return SplicedTokens(Outcome.OK, tuple(token_ids), tuple(mask))


def of_reference(values: Sequence[float], mask: Sequence[bool]) -> list[float]:
    """The values of the reference's tokens.

    Args:
        values: one per token of the spliced response.
        mask: of :class:`SplicedTokens`.

    Raises:
        ValueError: they are not equally many.
    """
    return [value for value, own in zip(values, mask, strict=True) if own]


def reference_mask(offsets: Offsets, span: tuple[int, int]) -> list[bool]:
    """Which tokens share a character with the reference.

    A token that holds characters of the reference and of its surroundings counts: its probability
    is that of the reference's beginning or end. So does each of several tokens that make up one
    character, and a token without width strictly inside (white space that a tokenizer trims).

    Args:
        offsets: of each token, in characters of the text: first, and one after the last.
        span: of the reference in the same text.

    Returns:
        One entry per token.

    Raises:
        ValueError: the span is empty, or no token is in it or reaches its end: the text was
            truncated, or the offsets are another text's.

    Deviations: none.
    """
    first, end = span
    if not 0 <= first < end:
        raise ValueError(f"span must be a range of characters, got {span}")
    mask = [start < end and token_end > first for start, token_end in offsets]
    if not any(mask) or all(token_end < end for _, token_end in offsets):
        raise ValueError(
            f"offsets do not cover the reference, characters {first} to {end}: encode the spliced "
            "text without truncation"
        )
    return mask
