"""verl's V1 trainer with post-advantage masks and pass@k, registered as ``verl_ext.sync``.

The mixin overrides stages and calls them; it copies none.
"""

from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions
from verl.workers.utils.padding import response_to_nested

from verl_ext.adapters import masks
from verl_ext.adapters.validation import pass_at_k_metrics


class VerlExtTrainer:
    """What verl-ext adds to a V1 trainer; mixed in before verl's class."""

    base_mode: str
    # verl's own, named here for readers and the type checker.
    config: DictConfig
    global_steps: int
    actor_rollout_wg: Any

    def __init__(self, config: DictConfig) -> None:
        # verl compares the mode string with "sync" in eight places: give it the name it knows.
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.base_mode
        super().__init__(config)  # type: ignore[call-arg]
        self.ext_masks = masks.build((config.algorithm.get("verl_ext") or {}).get("masks"))
        self._ext_keep: torch.Tensor | None = None

    def _build_replay_buffer(self) -> Any:
        """Adds a key: how often verl looks whether rollouts are done (its 2 s rule a CPU step)."""
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        interval = self.config.trainer.v1.sampler.sampler_kwargs.get("poll_interval")
        if interval is not None:
            buffer.poll_interval = float(interval)
        return buffer

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        return self._ext_mask(batch, metrics) if self.ext_masks else batch

    def _ext_mask(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Writes advantages, response_mask and loss_mask together, so that no loss sees two masks.

        A batch with nothing left keeps its masks: verl's metrics divide by them, and the update is
        skipped anyway.
        """
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["advantages", "response_mask"],
        )
        lengths = data["response_mask"]
        padded = data.to_padded_tensor()
        keep, mask_metrics = masks.apply(
            self.ext_masks, padded["advantages"], padded["response_mask"]
        )
        metrics.update(mask_metrics)
        self._ext_keep = keep
        if not keep.any():
            return batch
        kept = keep.to(padded["response_mask"].dtype)
        fields = {
            "advantages": torch.where(keep, padded["advantages"], 0.0),
            "response_mask": kept,
            "loss_mask": kept,
        }
        nested = {name: response_to_nested(value, lengths) for name, value in fields.items()}
        return tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict(nested, batch_size=len(batch)),
        )

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        keep = self._ext_keep
        if keep is None:
            return super()._update_actor(batch, metrics)  # type: ignore[misc]
        skipped = not keep.any()
        metrics["verl_ext/skipped_update"] = float(skipped)
        if skipped:
            print(f"[verl_ext] step {self.global_steps}: nothing left to learn from, no update")
        else:
            super()._update_actor(self._ext_rows_to_train(batch, keep), metrics)  # type: ignore[misc]
        return batch

    def _ext_rows_to_train(self, batch: KVBatchMeta, keep: torch.Tensor) -> KVBatchMeta:
        actor = self.config.actor_rollout_ref.actor
        mini_batch = actor.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n
        lengths = [tag["seq_len"] for tag in batch.tags]
        rows = masks.rows_to_train(keep, lengths, mini_batch)
        if len(rows) == len(batch):
            return batch
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        parts = get_seqlen_balanced_partitions([lengths[row] for row in rows], ranks, True)
        return batch.select_keys([batch.keys[rows[i]] for part in parts for i in part])

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        metrics: dict[str, float] = super()._val_metrics_update(  # type: ignore[misc]
            data_sources,
            sample_uids,
            reward_extra_infos_dict,
            sample_turns,
            expected_acc_counts=expected_acc_counts,
        )
        metrics.update(
            pass_at_k_metrics(
                data_sources, sample_uids, reward_extra_infos_dict, expected_acc_counts or {}
            )
        )
        return metrics


@register_trainer("verl_ext.sync")
class VerlExtTrainerSync(VerlExtTrainer, PPOTrainerSync):
    """verl's synchronous trainer with verl-ext's stages."""

    base_mode = "sync"
