"""Texts that are too long, cut in the middle."""

from collections.abc import Callable


def shorten(text: str, characters: int, marker: str) -> str:
    """The text within a number of characters: its head and its tail around a marker.

    The head has as many characters as the tail, or one more: a response ends in its answer, an
    error message often in its cause, and both begin with what they are about.

    Args:
        text: to be shortened; one that fits is returned as it is.
        characters: the most there may be, the marker's included.
        marker: stands for what was cut out.

    Raises:
        ValueError: ``characters`` leaves no room beside the marker.
    """
    if len(text) <= characters:
        return text
    room = characters - len(marker)
    if room < 1:
        raise ValueError(f"characters must be above the marker's {len(marker)}, got {characters}")
    tail = room // 2
    return text[: room - tail] + marker + text[len(text) - tail :]


def most(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number in [low, high) that fits, or None if ``low`` does not.

    By bisection, in log₂(high − low) + 1 calls. Where a larger number fits although a smaller one
    does not (tokenizers merge across a cut), it finds some number that fits and whose successor
    does not.

    Args:
        fits: does it fit? Called with each number at most once.
        low: the least number to try.
        high: a number that does not fit.
    """
    if low >= high or not fits(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
