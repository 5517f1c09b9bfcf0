"""What goes wrong with a judge: which calls fail, and how."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from verl_ext.simulated_judge.chance import uniform
from verl_ext.suggest import nearest


class Fault(Enum):
    """A way in which a call fails, or comes late."""

    HTTP_500 = "http_500"
    RATE_LIMIT = "rate_limit"  # 429 with Retry-After
    REJECTED = "rejected"  # 400, as for a prompt that is too long
    HANG = "hang"  # no byte
    TRICKLE = "trickle"  # a body without end, a space at a time
    DROP = "drop"  # the connection is closed
    SLOW = "slow"  # answered well, after slow_s
    NOT_JSON = "not_json"  # 200, and a body that is none of the protocol's
    MALFORMED = "malformed"  # a score in a sentence
    OUT_OF_RANGE = "out_of_range"  # scores above the best
    EMPTY = "empty"
    TRUNCATED = "truncated"  # cut off at max_tokens
    REFUSED = "refused"
    OUTAGE = "outage"  # 503; by call number, not by share


@dataclass(frozen=True)
class Faults:
    """Which calls fail.

    Attributes:
        shares: kind -> its share of the calls. Whether a call fails is a hash of the seed, what was
            shown and how often it was asked before, so a call that is asked again may go well.
        marker: only calls fail whose response shown first contains this; None for all.
        outages: (begin, end) in numbers of calls, from 0, the end excluded.
        retry_after: what a rate-limited call is told: seconds, or "date:SECONDS" for the same as an
            HTTP date.
        slow_s: how long a slow call takes.
        seed: of all of them.

    Raises:
        ValueError: an unknown kind, shares that are negative or more than 1 together, an outage
            that ends before it begins, or a time that is none.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    marker: str | None = None
    outages: tuple[tuple[int, int], ...] = ()
    retry_after: str = "1"
    slow_s: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        valid = [fault.value for fault in Fault if fault is not Fault.OUTAGE]
        for kind, share in self.shares.items():
            if kind not in valid:
                raise ValueError(
                    f"no fault '{kind}': did you mean '{nearest(kind, valid)}'? "
                    f"There are: {', '.join(valid)}"
                )
            if not share >= 0:
                raise ValueError(f"the share of {kind} must be >= 0, got {share}")
        if sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"shares of faults must be at most 1 together, got {self.shares}")
        if any(not 0 <= begin <= end for begin, end in self.outages):
            raise ValueError(f"outages must be 0 <= begin <= end, got {self.outages}")
        if not re.fullmatch(r"(date:)?\d+(\.\d+)?", self.retry_after):
            raise ValueError(
                f"retry_after must be seconds or date:SECONDS, got {self.retry_after!r}"
            )
        if not self.slow_s >= 0:
            raise ValueError(f"slow_s must be >= 0, got {self.slow_s}")

    def of_call(self, number: int, content: str, attempt: int, first: str) -> Fault | None:
        """How a call fails; None where it does not.

        Args:
            number: of the call, from 0.
            content: stands for all that was asked.
            attempt: how often the same was asked before.
            first: everything of the response shown first.
        """
        if any(begin <= number < end for begin, end in self.outages):
            return Fault.OUTAGE
        if self.marker is not None and self.marker not in first:
            return None
        left = uniform("fault", self.seed, content, attempt)
        for kind, share in self.shares.items():
            left -= share
            if left < 0:
                return Fault(kind)
        return None
