"""A circuit breaker: an endpoint that does not answer is left alone for a while."""

import time
from collections.abc import Callable
from enum import Enum

from verl_ext.adapters.judge.settings import BreakerSettings


class Admission(Enum):
    """What a call may do."""

    REFUSED = "refused"
    ORDINARY = "ordinary"
    PROBE = "probe"  # the one call whose outcome closes an open breaker, or opens it again


class Breaker:
    """Counts calls in a row without an answer.

    Closed, all calls pass. After enough failures in a row it opens and none does. When the cooldown
    is over one call passes, the probe: silence opens the breaker again. An answer to any call
    closes it.

    Args:
        settings: how many failures, and how long a cooldown.
        clock: seconds that never go back.
    """

    def __init__(
        self, settings: BreakerSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._clock = settings, clock
        self._failures = 0
        self._until: float | None = None  # None where it is closed
        self._probing = False

    def admission(self) -> Admission:
        """For one call, whose outcome must then be told."""
        if self._until is None:
            return Admission.ORDINARY
        if self._probing or self._clock() < self._until:
            return Admission.REFUSED
        self._probing = True
        return Admission.PROBE

    def answered(self) -> None:
        """A call got an answer, good or not."""
        self._failures, self._until, self._probing = 0, None, False

    def silent(self, admission: Admission) -> None:
        """A call got none.

        Args:
            admission: which it had.
        """
        self._failures += 1
        opens = self._until is None and self._failures >= self._settings.failures
        if opens or admission is Admission.PROBE:
            self._until = self._clock() + self._settings.cooldown_s
        self.abandoned(admission)

    def abandoned(self, admission: Admission) -> None:
        """A call was cancelled and nothing is known: after a probe, the next call is one.

        Args:
            admission: which it had.
        """
        if admission is Admission.PROBE:
            self._probing = False
