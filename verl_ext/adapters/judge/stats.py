"""What a judge did and cost, in sums that add up over processes."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from verl_ext.adapters.judge.verdict import Cost, Failure
from verl_ext.reward_fns.judge import BothOrders

BUCKET = 1.1  # ratio of two latencies' edges: a quantile is right to 10 %
FAILED = "failed/"
LATENCY = "latency_bucket/"


class JudgeStats:
    """Counters of one judge."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()

    def count(self, failure: Failure | None, cost: Cost) -> None:
        """Counts a call.

        Args:
            failure: None where it has scores.
            cost: of the call.
        """
        self._add("calls", 1)
        self._add("cache_hits", cost.cached)
        for name in ("attempts", "latency_s", "prompt_tokens", "completion_tokens"):
            self._add(name, getattr(cost, name))
        if failure is not None:
            self._add(FAILED + failure.value, 1)
        if cost.attempts:
            self._add("asked", 1)
            self._add(f"{LATENCY}{_bucket(cost.latency_s)}", 1)

    def count_pair(self, both: BothOrders) -> None:
        """Counts a pair that was judged in both orders.

        Args:
            both: what the judge said.
        """
        self._add("pairs", 1)
        if both.favour is None:
            self._add("void_pairs", 1)
        else:
            self._add("favour", both.favour)

    def snapshot(self) -> dict[str, float]:
        """All sums so far, by name; :func:`merged` adds those of several processes."""
        return dict(self._sums)

    def _add(self, name: str, value: float) -> None:
        self._sums[name] += value  # type: ignore[assignment]


def merged(snapshots: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sums over processes.

    Args:
        snapshots: one of each.
    """
    total: dict[str, float] = {}
    for snapshot in snapshots:
        for name, value in snapshot.items():
            total[name] = total.get(name, 0.0) + value
    return total


def report(sums: Mapping[str, float]) -> dict[str, float]:
    """What a snapshot says, as metrics; a quantity of which there was none is left out.

    Args:
        sums: a snapshot, or several merged; or the difference of two of one process.

    Returns:
        ``calls``, ``cache_hits``, tokens, ``failed_share`` and the calls of each kind of failure;
        over the calls that were made ``attempts_mean``, ``latency_mean_s`` and ``latency_p95_s``
        (the upper edge of a bucket: at most 10 % too much); of the pairs judged in both orders
        ``void_share`` and ``position_bias``, in points for the response shown first.
    """
    found = {
        name: sums.get(name, 0.0)
        for name in ("calls", "cache_hits", "prompt_tokens", "completion_tokens")
    }
    failures = {name: value for name, value in sums.items() if name.startswith(FAILED)}
    found |= failures
    if sums.get("calls"):
        found["failed_share"] = sum(failures.values()) / sums["calls"]
    if asked := sums.get("asked"):
        found["attempts_mean"] = sums["attempts"] / asked
        found["latency_mean_s"] = sums["latency_s"] / asked
        found["latency_p95_s"] = _quantile(sums, 0.95)
    if pairs := sums.get("pairs"):
        void = sums.get("void_pairs", 0.0)
        found["void_share"] = void / pairs
        if pairs > void:
            found["position_bias"] = sums.get("favour", 0.0) / (pairs - void)
    return found


def _bucket(seconds: float) -> int:
    """The bucket of a latency: n for (1.1ⁿ⁻¹, 1.1ⁿ]."""
    return math.ceil(math.log(max(seconds, 1e-6), BUCKET))


def _quantile(sums: Mapping[str, float], share: float) -> float:
    counts = sorted(
        (int(name.removeprefix(LATENCY)), count)
        for name, count in sums.items()
        if name.startswith(LATENCY)
    )
    wanted, below = share * sum(count for _, count in counts), 0.0
    for bucket, count in counts:
        below += count
        if below >= wanted:
            return float(BUCKET**bucket)
    return math.nan  # of no calls
