"""The nearest valid name, for error messages."""

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """The entry of ``valid`` most like ``name``, whatever the case.

    Args:
        name: what somebody typed.
        valid: names to choose from, at least one.

    Raises:
        ValueError: ``valid`` is empty.
    """
    by_lower = {candidate.lower(): candidate for candidate in valid}
    if not by_lower:
        raise ValueError("no valid names to choose from")
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
    return by_lower[matches[0]]
