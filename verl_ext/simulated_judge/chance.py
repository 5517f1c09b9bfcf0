"""Chance that is a function of what it is about: the same in every process and every run."""

import hashlib
import json
from statistics import NormalDist

NORMAL = NormalDist()


def uniform(*about: object) -> float:
    """A number in (0, 1), by the SHA-256 of the JSON of its arguments.

    Args:
        about: strings, numbers and lists of them.
    """
    digest = hashlib.sha256(json.dumps(about).encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48


def gauss(std: float, *about: object) -> float:
    """A number from the normal distribution around 0.

    Args:
        std: the standard deviation; at 0 the number is 0.
        about: strings, numbers and lists of them.
    """
    return std * NORMAL.inv_cdf(uniform(*about)) if std else 0.0
