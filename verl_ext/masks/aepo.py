"""AEPO as a mask of the trainer: a gate on the batch's entropy, and thresholds on parts of it.

Source: Shen et al., "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory
Management", 2025, https://arxiv.org/abs/2512.12967, sections 4.3 and 4.4.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from verl_ext.masks.denominator import require_denominator
from verl_ext.masks.entropy import batch_entropy, keep_mask, require_reduction
from verl_ext.masks.gates import CalibratedGate, EntropyGate, ReadmeBand, require_nats

AUTO = "auto"
RULES = ("hysteresis", "readme_band", "off")
STEPS, LOW, HIGH = 20, 0.1, 0.9  # of a calibration, unless told otherwise
Gate: TypeAlias = EntropyGate | CalibratedGate | ReadmeBand


class Aepo:
    """Withholds negative advantages while the policy is uncertain.

    Args:
        low: H_low in nats, or ``"auto"``: the paper states neither threshold, so both are taken
            from the run's own first batches (:class:`~verl_ext.masks.gates.CalibratedGate`).
        high: H_high in nats, or ``"auto"``; both are numbers or both are auto.
        calibration_steps: batches that ``auto`` watches before the gate can go on.
        low_quantile: of their entropies, becomes H_low.
        high_quantile: of their entropies, becomes H_high.
        gate: ``"hysteresis"``, the paper's rule; ``"readme_band"``, that of the authors' README,
            for reproduction alone; ``"off"``, the thresholds below alone.
        reduction: of the batch's entropy, ``"sequence"`` (paper) or ``"token"``.
        token_threshold: withholds A < 0 at tokens of more entropy, in nats; None for none.
        sequence_threshold: withholds A < 0 in responses of more mean entropy, in nats.
        denominator: of the token mean, ``"all"`` (paper) or ``"kept"`` tokens.

    Attributes:
        denominator: as above; read by the trainer.
        metrics: of the last batch: its entropy in nats, whether the gate is on (0 or 1), and the
            thresholds in force.
        news: what a person should read once, such as the thresholds found; empty otherwise.
        watches: its first updates, in which it masks nothing.

    Raises:
        ValueError: a setting is outside its range, ``gate=off`` comes without a threshold and so
            masks nothing, or ``readme_band`` without numbers; or a setting has no effect beside the
            others and is not its default.

    Degenerate: all A < 0 and the gate on keep nothing; the trainer then skips the update.

    Deviations: see :mod:`verl_ext.masks.entropy` and :mod:`verl_ext.masks.gates`.
    """

    def __init__(  # noqa: PLR0913 -- the keys of its configuration
        self,
        *,
        low: float | str = AUTO,
        high: float | str = AUTO,
        calibration_steps: int = STEPS,
        low_quantile: float = LOW,
        high_quantile: float = HIGH,
        gate: str = "hysteresis",
        reduction: str = "sequence",
        token_threshold: float | None = None,
        sequence_threshold: float | None = None,
        denominator: str = "all",
    ) -> None:
        require_denominator(denominator)
        require_reduction(reduction)
        thresholds = {"token_threshold": token_threshold, "sequence_threshold": sequence_threshold}
        for name, value in thresholds.items():
            if value is not None:
                require_nats(name, value)
        quantiles = {"low_quantile": low_quantile, "high_quantile": high_quantile}
        calibrated = CalibratedGate(calibration_steps, **quantiles)
        self._gate = _gate(gate, low, high, calibrated)
        static = any(value is not None for value in thresholds.values())
        if self._gate is None and not static:
            raise ValueError("gate=off without token_threshold or sequence_threshold masks nothing")
        _refuse_idle(gate, low, high, calibration_steps=calibration_steps, **quantiles)
        self.watches = calibration_steps if self._gate is calibrated and not static else 0
        self._thresholds = thresholds
        self._reduction = reduction
        self.denominator = denominator
        self.metrics: dict[str, float] = {}
        self.news = ""

    def __call__(
        self,
        advantages: Float[Tensor, "batch time"],
        response_mask: Shaped[Tensor, "batch time"],
        *,
        entropy: Float[Tensor, "batch time"],
    ) -> Bool[Tensor, "batch time"]:
        """Moves the gate by this batch's entropy and says which tokens may teach.

        Args:
            advantages: per token.
            response_mask: 1 on sampled tokens.
            entropy: of the policy before this update at each token, in nats.

        Returns:
            False on sampled tokens whose negative advantage is withheld, True everywhere else.

        Raises:
            ValueError: as ``batch_entropy`` and ``keep_mask``.
        """
        value = float(batch_entropy(entropy, response_mask, reduction=self._reduction))
        found_before = self._thresholds_in_force()
        on = self._gate.update(value) if self._gate else False
        found = self._thresholds_in_force()
        self.news = "" if found == found_before else _found(found)
        self.metrics = {"batch_entropy": value, **found}
        if self._gate:
            self.metrics["gate_on"] = float(on)
        return keep_mask(advantages, response_mask, gate_on=on, entropy=entropy, **self._thresholds)

    def _thresholds_in_force(self) -> dict[str, float]:
        """H_low and H_high where there are any; empty while calibrating and without a gate."""
        if self._gate is None or self._gate.low is None or self._gate.high is None:
            return {}
        return {"low": self._gate.low, "high": self._gate.high}

    def state_dict(self) -> dict[str, Any]:
        """The gate's state: is it on, and what calibration has seen or found."""
        return self._gate.state_dict() if self._gate else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where ``state_dict`` left off; ValueError if the state is another gate's."""
        if self._gate:
            self._gate.load_state_dict(state)
        elif state:
            raise ValueError(f"there is no gate to take up the state {sorted(state)}")


def _gate(
    rule: str, low: float | str, high: float | str, calibrated: CalibratedGate
) -> Gate | None:
    """The gate that the settings describe; None for ``off``."""
    if rule not in RULES:
        raise ValueError(f"gate must be one of {', '.join(RULES)}, got {rule!r}")
    if rule == "off":
        return None
    if low == AUTO and high == AUTO:
        if rule == "readme_band":
            raise ValueError("gate=readme_band needs numbers for low and high")
        return calibrated
    if isinstance(low, str) or isinstance(high, str):
        raise ValueError(
            f"low and high must be both numbers (nats) or both {AUTO!r}, got low={low}, high={high}"
        )
    return EntropyGate(low, high) if rule == "hysteresis" else ReadmeBand(low, high)


def _refuse_idle(rule: str, low: float | str, high: float | str, **calibration: float) -> None:
    """Refuses, with a ValueError, what is set of a gate or a calibration that there is not."""
    usual = {"calibration_steps": STEPS, "low_quantile": LOW, "high_quantile": HIGH}
    idle: list[tuple[str, float | str, float | str]] = [
        (name, value, usual[name]) for name, value in calibration.items()
    ]
    why = f"low={low} and high={high}"
    if rule == "off":
        idle, why = [("low", low, AUTO), ("high", high, AUTO), *idle], "gate=off"
    elif low == AUTO:
        return
    for name, value, default in idle:
        if value != default:
            raise ValueError(f"{name}={value} has no effect with {why}: make it {default}")


def _found(thresholds: Mapping[str, float]) -> str:
    pinned = " ".join(f"algorithm.verl_ext.masks.aepo.{k}={v:.6g}" for k, v in thresholds.items())
    return f"entropy thresholds found; to pin them: {pinned}"
