"""When is a policy too uncertain to learn from mistakes? Three gates with one interface.

Source: Shen et al., "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory
Management", 2025, https://arxiv.org/abs/2512.12967, section 4.4; for the rule between the
thresholds the authors in https://github.com/Tongyi-Zhiwen/Qwen-Doc/issues/16.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any


class EntropyGate:
    """Masking goes on above one entropy and off below a lower one (a Schmitt trigger).

    Between the two it stays as it was, so that noise around a single threshold cannot switch it at
    every step. Off at the start; both comparisons are strict.

    Args:
        low: H_low ≥ 0 in nats; below it negative advantages are admitted again.
        high: H_high ≥ ``low`` in nats; above it they are withheld. The paper states neither value;
            its figures suggest 0.135 and 0.28 (Qwen3-4B-Thinking).

    Attributes:
        on: is masking on?

    Raises:
        ValueError: a threshold is not a finite number ≥ 0, or ``low`` is above ``high``.

    Deviations: the authors' README masks exactly between the thresholds, without memory
    (:class:`ReadmeBand`); they call this rule the intended one (issue 16).
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = require_nats("low", low), require_nats("high", high)
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got low={low}, high={high}")
        self.on = False

    def update(self, entropy: float) -> bool:
        """Takes the batch's entropy in nats and says whether masking is on for this batch.

        Raises:
            ValueError: it is NaN or infinite; the gate then stays as it was.
        """
        value = _measured(entropy)
        if value > self.high:
            self.on = True
        elif value < self.low:
            self.on = False
        return self.on

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; the thresholds are settings and not part of it."""
        return {"on": self.on}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where ``state_dict`` left off; ValueError if the state is another class's."""
        _require_keys(state, {"on"})
        self.on = bool(state["on"])


class CalibratedGate:
    """An :class:`EntropyGate` that takes its thresholds from the run's own first batches.

    Off for ``calibration_steps`` updates; H_low and H_high are then the quantiles of the entropies
    those updates saw, fixed for the rest of the run, and the next update is the first that can
    mask. To pin them, give their values (``low``, ``high``) to an EntropyGate.

    Args:
        calibration_steps: updates to watch, ≥ 1. If entropy drifts meanwhile, the band straddles
            the drift: it describes where the run has been, not where it should stay.
        low_quantile: of H_low, in [0, 1].
        high_quantile: of H_high, in [``low_quantile``, 1]; linear between neighbouring entropies.

    Attributes:
        on: is masking on?
        low: H_low in nats; None while calibrating.
        high: H_high in nats; None while calibrating.

    Raises:
        ValueError: a setting is outside the range above.

    Degenerate: equal entropies give ``low == high``, one threshold without a band.

    Deviations: ours altogether; the paper states neither thresholds nor how it found them.
    """

    def __init__(
        self, calibration_steps: int, *, low_quantile: float = 0.1, high_quantile: float = 0.9
    ) -> None:
        if isinstance(calibration_steps, bool) or not isinstance(calibration_steps, int):
            raise ValueError(f"calibration_steps must be an integer, got {calibration_steps!r}")
        if calibration_steps < 1:
            raise ValueError(f"calibration_steps must be >= 1, got {calibration_steps}")
        if not 0 <= low_quantile <= high_quantile <= 1:
            raise ValueError(
                "low_quantile and high_quantile must be in [0, 1] and in this order, got "
                f"low_quantile={low_quantile}, high_quantile={high_quantile}"
            )
        self.calibration_steps = calibration_steps
        self.quantiles = (low_quantile, high_quantile)
        self._seen: list[float] = []
        self._gate: EntropyGate | None = None

    @property
    def on(self) -> bool:
        """Is masking on?"""
        return self._gate is not None and self._gate.on

    @property
    def low(self) -> float | None:
        """H_low in nats; None while calibrating."""
        return self._gate.low if self._gate else None

    @property
    def high(self) -> float | None:
        """H_high in nats; None while calibrating."""
        return self._gate.high if self._gate else None

    def update(self, entropy: float) -> bool:
        """Takes the batch's entropy in nats and says whether masking is on for this batch.

        Raises:
            ValueError: it is NaN or infinite; the gate then stays as it was.
        """
        if self._gate is not None:
            return self._gate.update(entropy)
        self._seen.append(_measured(entropy))
        if len(self._seen) >= self.calibration_steps:
            # A policy without doubt has an entropy of 0 up to rounding, of either sign.
            low, high = (max(_quantile(self._seen, share), 0.0) for share in self.quantiles)
            self._gate = EntropyGate(low, high)
            self._seen = []
        return False

    def state_dict(self) -> dict[str, Any]:
        """The entropies seen so far or the thresholds found, and whether masking is on."""
        return {"on": self.on, "low": self.low, "high": self.high, "seen": list(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where ``state_dict`` left off, thresholds found included.

        Raises:
            ValueError: the state is another class's, or its thresholds are no thresholds.
        """
        _require_keys(state, {"on", "low", "high", "seen"})
        gate = None
        if state["low"] is not None or state["high"] is not None:
            gate = EntropyGate(state["low"], state["high"])
            gate.on = bool(state["on"])
        self._gate, self._seen = gate, [_measured(entropy) for entropy in state["seen"]]


class ReadmeBand:
    """The rule of the authors' README, for reproduction alone: masks when low < H < high.

    Stateless, and the reverse of the paper's at high entropy, where it masks nothing.

    Args:
        low: H_low ≥ 0 in nats.
        high: H_high > ``low`` in nats.

    Raises:
        ValueError: a threshold is not a finite number ≥ 0, or nothing lies between them.

    Deviations: none in the rule; what is masked is ``keep_mask``'s.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = require_nats("low", low), require_nats("high", high)
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low={low}, high={high}")

    def update(self, entropy: float) -> bool:
        """Takes the batch's entropy in nats and says whether masking is on; NaN: ValueError."""
        return self.low < _measured(entropy) < self.high

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up; ValueError if there is."""
        _require_keys(state, set())


def require_nats(name: str, value: float) -> float:
    """The value of a threshold on entropies, if it is one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise ValueError(f"{name} must be a finite number >= 0 (nats), got {value!r}")


def _measured(entropy: float) -> float:
    """An entropy that may move a gate."""
    value = float(entropy)
    if not math.isfinite(value):
        raise ValueError(f"a batch's entropy must be finite, got {value}")
    return value


def _quantile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest of the sorted values."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    lower, upper = ordered[math.floor(position)], ordered[math.ceil(position)]
    # Rounding must not carry it past its neighbour: a low above the high would be refused.
    return min(lower + (upper - lower) * (position - math.floor(position)), upper)


def _require_keys(state: Mapping[str, Any], keys: set[str]) -> None:
    """Refuses the state of another class of gate."""
    if set(state) != keys:
        raise ValueError(f"the gate's state must have the keys {sorted(keys)}, got {sorted(state)}")
