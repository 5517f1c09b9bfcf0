"""A teacher that is an average of its student: the moving average of the weights.

Source: Hübotter et al., "Reinforcement Learning via Self-Distillation", 2026,
https://arxiv.org/abs/2601.20802; ``_update_teacher`` in ``workers/actor/dp_actor.py`` of
https://github.com/lasgroup/SDPO.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Ema:
    """The exponential moving average m ← m + ρ (s − m) of a student's weights s, in float32.

    A step ρ (s − m) below half a unit in the last place of m is lost. So a float32 average stops up
    to 6e-8 / ρ short of a weight that has moved and then stands still, as bfloat16 weights do; a
    bfloat16 average, up to 4e-3 / ρ short, hardly moves at all. Therefore what each addition rounds
    off is kept (Kahan, 1965), in bfloat16: six bytes per weight, on the CPU.

    Args:
        student: weights by name, of any floating-point type and device; the average begins with
            them. A shard of each is enough, since weights do not meet. Not kept.
        rate: ρ in (0, 1), dimensionless; the authors' runs have .05 and, with rich feedback, .01.

    Attributes:
        weights: m by name, float32 on the CPU; always the same tensors, changed in place.
        remainders: what belongs to them beyond their last place, bfloat16.
        rate: ρ.

    Raises:
        ValueError: the rate is not in (0, 1), or the student has no weights, one that is no
            floating-point number, or one that is NaN or infinite.

    Degenerate: a student that stands still is its own average, exactly. A shard without weights is
    none.

    Deviations: the authors average in the weights' own type, and keep no remainders.
    """

    def __init__(self, student: Mapping[str, Tensor], rate: float) -> None:
        if not 0 < rate < 1:
            raise ValueError(
                f"rate must be above 0 and below 1, got {rate}: at 0 the teacher would be the "
                "reference policy, at 1 the student itself"
            )
        if not student:
            raise ValueError("student has no weights to average")
        _require_numbers(student)
        self.rate = rate
        self.weights = {
            name: weight.detach().to("cpu", torch.float32, copy=True)
            for name, weight in student.items()
        }
        self.remainders = {
            name: torch.zeros_like(weight, dtype=torch.bfloat16)
            for name, weight in self.weights.items()
        }

    @torch.no_grad()
    def update(self, student: Mapping[str, Tensor]) -> None:
        """Moves the average towards the student, once per optimiser step or batch.

        Args:
            student: weights of the same names and shapes as at the start.

        Raises:
            ValueError: names or shapes differ, or a weight is no finite floating-point number; the
                average then stays as it was.
        """
        self._require_same(student)
        _require_numbers(student)
        for name, weight in self.weights.items():
            remainder = self.remainders[name]
            step = student[name].to("cpu", torch.float32, copy=True)
            step.sub_(weight).sub_(remainder).mul_(self.rate).add_(remainder)
            before = weight.clone()
            weight.add_(step)
            remainder.copy_(step.sub_(weight - before))

    @torch.no_grad()
    def squared_distance(self, student: Mapping[str, Tensor]) -> tuple[float, float]:
        """Σ (m − s)² and Σ s², in float64; shards add up.

        Raises:
            ValueError: names or shapes differ.
        """
        self._require_same(student)
        apart = norm = 0.0
        for name, weight in self.weights.items():
            value = student[name].to("cpu", torch.float64)
            apart += (weight.double() - value).square().sum().item()
            norm += value.square().sum().item()
        return apart, norm

    def distance(self, student: Mapping[str, Tensor]) -> float:
        """‖m − s‖ / ‖s‖ over all weights: :func:`relative_distance` of the sums."""
        return relative_distance(*self.squared_distance(student))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, bit for bit; the rate is a setting and not part of it.

        The tensors are not copied: write them before the next update.
        """
        return {"weights": dict(self.weights), "remainders": dict(self.remainders)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where ``state_dict`` left off.

        Raises:
            ValueError: the state is not an average's, or not of weights of these names, shapes and
                types; the average then stays as it was.
        """
        if set(state) != {"weights", "remainders"}:
            raise ValueError(
                f"an EMA's state must have the keys ['remainders', 'weights'], got {sorted(state)}"
            )
        for key, own in (("weights", self.weights), ("remainders", self.remainders)):
            _require_alike(f"state[{key!r}]", state[key], own)
            for name, tensor in own.items():
                if state[key][name].dtype != tensor.dtype:
                    raise ValueError(
                        f"state[{key!r}][{name!r}] must be {tensor.dtype}, got "
                        f"{state[key][name].dtype}"
                    )
        for key, own in (("weights", self.weights), ("remainders", self.remainders)):
            for name, tensor in own.items():
                tensor.copy_(state[key][name])

    def _require_same(self, student: Mapping[str, Tensor]) -> None:
        """Refuses another model's weights."""
        _require_alike("student", student, self.weights)


def relative_distance(apart: float, norm: float) -> float:
    """√(apart / norm), both of them sums of squares as of :meth:`Ema.squared_distance`.

    Degenerate: nothing apart is 0, whatever the norm; else a norm of 0 is infinitely far.
    """
    if apart == 0:
        return 0.0
    return math.sqrt(apart / norm) if norm else math.inf


def _require_alike(label: str, values: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuses other names or shapes than the average's."""
    missing, unknown = sorted(own.keys() - values.keys()), sorted(values.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"{label} must have the weights that the average began with: missing {missing[:3]}, "
            f"unknown {unknown[:3]}"
        )
    for name, tensor in own.items():
        if values[name].shape != tensor.shape:
            raise ValueError(
                f"{label}[{name!r}] must have the shape {tuple(tensor.shape)}, got "
                f"{tuple(values[name].shape)}"
            )


def _require_numbers(student: Mapping[str, Tensor]) -> None:
    """Refuses what cannot be averaged, or would spoil the average for good."""
    for name, weight in student.items():
        if not weight.is_floating_point():
            raise ValueError(f"student[{name!r}] is {weight.dtype}: average floating-point weights")
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"student[{name!r}] has a NaN or an infinity: leave out the update of such a step"
            )
