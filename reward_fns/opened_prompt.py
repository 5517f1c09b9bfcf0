"""RLPR's splice where the prompt has begun the response, and where there is no reasoning at all."""

from verl_ext.reward_fns.response_format import THINK_ANSWER, Tags
from verl_ext.reward_fns.splice import Outcome, SplicedText, spliced_text


def opened_by(prompt: str, tags: Tags = THINK_ANSWER) -> str:
    """What a prompt has opened of the response: its last reasoning tag, if nothing follows it.

    Some chat templates end in ``<think>``; the response then begins inside.

    Args:
        prompt: as the model reads it, decoded.
        tags: of the reasoning and the answer.

    Returns:
        The prompt's end, from that tag on; "" without.
    """
    start = prompt.rfind(tags.think[0]) if tags.think else -1
    opens = start >= 0 and prompt[start:].strip() == tags.think[0]
    return prompt[start:] if opens else ""


def spliced_after(
    opened: str, response: str, reference: str, *, eos: str, tags: Tags = THINK_ANSWER
) -> SplicedText:
    """As :func:`~verl_ext.reward_fns.splice.spliced_text`, of a response that a prompt has opened.

    Args:
        opened: of :func:`opened_by`; part of what is judged, not of the text.
        response: decoded, without it.
        reference: the answer to put in place of the response's.
        eos: the end-of-sequence text.
        tags: of the reasoning and the answer.
    """
    whole = spliced_text(opened + response, reference, eos=eos, tags=tags)
    if whole.outcome is not Outcome.OK:
        return whole
    first, end = whole.span
    return SplicedText(
        Outcome.OK, whole.text[len(opened) :], (first - len(opened), end - len(opened))
    )


def without_reasoning(reference: str, *, eos: str) -> SplicedText:
    """The reference as the whole response, for b: no tags, a space on either side, and the end.

    Args:
        reference: not empty.
        eos: the end-of-sequence text.
    """
    if not reference.strip():
        return SplicedText(Outcome.EMPTY_REFERENCE)
    return SplicedText(Outcome.OK, f" {reference} {eos}", (1, 1 + len(reference)))
