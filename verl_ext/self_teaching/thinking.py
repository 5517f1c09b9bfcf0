"""A response without the reasoning that led to it."""

import re


def without_thinking(text: str, opening: str = "<think>", closing: str = "</think>") -> str:
    """The text without its thoughts, their tags and the whitespace behind them.

    Args:
        text: a response, of any length.
        opening: what a thought begins with, not empty.
        closing: what it ends with, not empty.

    Degenerate: a thought that is never closed goes to the end of the text: it led to no answer. A
    closing tag without an opening one ends a thought that the prompt began (some chat templates
    write the opening tag), so everything before it goes too; so does what stands between the two
    closing tags of a thought within a thought. A text that is one thought leaves "".

    Deviations: the authors' code (lasgroup/SDPO) leaves both kinds of unpaired tags, and with them
    the thought, in the demonstration.
    """
    thought = re.compile(rf"{re.escape(opening)}.*?{re.escape(closing)}\s*", re.DOTALL)
    # Up to the last closing tag, so that no opening one is followed to the end in vain.
    before, closed, answer = text.rpartition(closing)
    if closed:
        answer = thought.sub("", before + closed) + answer.lstrip()
        _, stray, after = answer.rpartition(closing)
        answer = after.lstrip() if stray else answer
    return answer.partition(opening)[0]
