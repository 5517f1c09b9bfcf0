"""What came of asking a judge: scores, or why there are none, and what it cost."""

from dataclasses import dataclass
from enum import Enum


class Failure(Enum):
    """Why a call has no scores."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    RATE_LIMITED = "rate_limited"
    HTTP_ERROR = "http_error"  # a status of 500 and above
    REJECTED = "rejected"  # 400 and the like: this request, as for a prompt that is too long
    MALFORMED = "malformed"
    OUT_OF_RANGE = "out_of_range"
    TRUNCATED = "truncated"
    REFUSED = "refused"
    CIRCUIT_OPEN = "circuit_open"  # not asked, after many calls without an answer

    @property
    def silent(self) -> bool:
        """Whether the endpoint gave no answer: what the circuit breaker counts."""
        return self in SILENT


SILENT = (Failure.TIMEOUT, Failure.CONNECTION, Failure.RATE_LIMITED, Failure.HTTP_ERROR)
FINAL = (Failure.REJECTED, Failure.REFUSED, Failure.CIRCUIT_OPEN)  # asking again is of no use


@dataclass(frozen=True)
class Cost:
    """What a call cost.

    Attributes:
        attempts: requests made; 0 where none was.
        latency_s: seconds from its turn to its end, waits between attempts included.
        prompt_tokens: of all attempts that were answered, as the endpoint counts.
        completion_tokens: the same of its answers.
        cached: whether the answer came from the cache.
    """

    attempts: int = 0
    latency_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False


@dataclass(frozen=True)
class PairVerdict:
    """Of two responses.

    Attributes:
        scores: of the responses shown first and second; None where the judge failed.
        failure: None where it did not.
        detail: of the failure, in words.
        cost: of the call.
    """

    scores: tuple[float, float] | None
    failure: Failure | None = None
    detail: str = ""
    cost: Cost = Cost()


@dataclass(frozen=True)
class SingleVerdict:
    """Of one response.

    Attributes:
        score: None where the judge failed.
        failure: None where it did not.
        detail: of the failure, in words.
        cost: of the call.
    """

    score: float | None
    failure: Failure | None = None
    detail: str = ""
    cost: Cost = Cost()
