"""How far a step's samples are from the policy that learns from them, in tokens' worth.

How many steps they lag is verl's metric, ``training/off_policy/trajectory_staleness``.
"""

from typing import Any

from transfer_queue import KVBatchMeta

from verl_ext.adapters.sessions import sessions
from verl_ext.adapters.trainer.stage import Stage
from verl_ext.metrics.ess import effective_sample_size

METRIC = "verl_ext/effective_sample_size"


class OffPolicy(Stage):
    """Adds the effective sample size, where the trainer has log-probs of its own to compare."""

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], *rest: Any, **more: Any
    ) -> None:
        """Past verl's aggregation over sub-batches: a share of the whole batch.

        Left out where a log-prob is no number and the run goes on all the same.
        """
        super()._compute_metrics(batch, metrics, *rest, **more)  # type: ignore[misc]
        correction = self.config.algorithm.get("rollout_correction") or {}
        servers_own = correction.get("bypass_mode")  # are verl's old log-probs then
        if servers_own or not self.config.actor_rollout_ref.rollout.calculate_log_probs:
            return
        names = ["old_log_probs", "rollout_log_probs", "response_mask"]
        data = self.ext_batch.get(batch, names)
        rows = sessions(batch.keys, batch.tags)
        old, sampled, mask = (rows.merged(data[name].to_padded_tensor(0)) for name in names)
        reported = self.ext_goes_on and not (old - sampled)[mask.bool()].isfinite().all()
        if mask.any() and not reported:
            metrics[METRIC] = effective_sample_size(old - sampled, mask).item()
