"""The nearest valid name, for error messages."""

import difflib
from collections.abc import Iterable

OUR_PREFIX = "verl_ext."


def nearest(name: str, valid: Iterable[str]) -> str:
    """The entry of ``valid`` most like ``name``, whatever the case and our prefix.

    The prefix is left out of the comparison: whoever types ``verl_ext.grpo`` means ``grpo``, and
    not the first of our names.

    Args:
        name: what somebody typed.
        valid: names to choose from, at least one.

    Raises:
        ValueError: ``valid`` is empty.
    """
    by_bare_name: dict[str, str] = {}
    for candidate in valid:
        by_bare_name.setdefault(_bare(candidate), candidate)
    if not by_bare_name:
        raise ValueError("no valid names to choose from")
    matches = difflib.get_close_matches(_bare(name), by_bare_name, n=1, cutoff=0.0)
    return by_bare_name[matches[0]]


def _bare(name: str) -> str:
    return name.lower().removeprefix(OUR_PREFIX)
