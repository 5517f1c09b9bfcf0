"""A teacher that is an average of the policy, and follows it once a step."""

import math
from typing import Any

from transfer_queue import KVBatchMeta

from verl_ext.adapters.trainer.self_teaching import METRIC, SelfTeaching
from verl_ext.self_teaching.ema import relative_distance


class Averaging(SelfTeaching):
    """What ``algorithm.verl_ext.teacher.source=ema`` asks of the trainer."""

    _ext_grad_norms: list[float]

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's; remembers the norm of the gradient until the step is over."""
        batch = super()._update_actor(batch, metrics)  # type: ignore[misc]
        teacher = self.ext_own_teacher
        if teacher is not None and teacher.source == "ema":
            self._ext_grad_norms.append(metrics["actor/grad_norm"])
        return batch

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """As verl's; then the average moves, however many updates the step has had.

        It stays where all updates were skipped, and where a gradient was not finite: the optimizer
        stood still.
        """
        self._ext_grad_norms = []
        batch = super().step(metrics, timing_raw)
        if all(map(math.isfinite, self._ext_grad_norms)):
            if self._ext_grad_norms:
                parts = self.actor_rollout_wg.ext_update_average()
                apart, norm = (sum(column) for column in zip(*parts, strict=True))
                metrics[f"{METRIC}/ema_distance"] = relative_distance(apart, norm)
        else:
            print(
                f"[verl_ext] step {self.global_steps}: a gradient is not finite, the averaged "
                "teacher stays as it is"
            )
        return batch
