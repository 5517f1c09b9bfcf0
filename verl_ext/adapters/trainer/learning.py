"""From advantage to update: fields for our estimators, masks, and the rows that are trained on."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions
from verl.workers.utils.padding import response_to_nested

from verl_ext.adapters import advantage
from verl_ext.adapters.masks import MaskChain, rows_to_train
from verl_ext.adapters.sessions import Sessions, sessions
from verl_ext.adapters.task_data import require_tasks, task_ids
from verl_ext.adapters.teacher.settings import rewarded_estimator
from verl_ext.adapters.trainer.stage import Stage, settings, task_key
from verl_ext.catalog import ADVANTAGES, MIXERS

LABELS = ("group_ids", "task_ids")


class Learning(Stage):
    """Hands estimators the fields they declare, and applies the masks after them."""

    def __init__(self, config: DictConfig) -> None:
        self.ext_masks = MaskChain(settings(config).get("masks"))
        # Our name of a field -> verl's in the queue, where they differ.
        self.ext_fields = {
            "task_ids": task_key(config),
            "group_ids": "uid",
            "rewards": "rm_scores",
        }
        self._ext_count_all()
        super().__init__(config)  # type: ignore[call-arg]

    def _ext_count_all(self) -> None:
        """Until a batch's masks say otherwise; nothing is left of the batch before it."""
        self._ext_counted: torch.Tensor | None = None
        self._ext_loss_masks: dict[str, torch.Tensor] = {}
        self._ext_teaches = True

    def _init_dataloader(self) -> None:
        """Finds tasks that a mask has a value for and the data do not have, or the reverse."""
        super()._init_dataloader()  # type: ignore[misc]
        if getattr(self.train_dataset, "dataframe", None) is None:
            return  # a class of one's own; its tasks show in the batches alone
        for name, mask in self.ext_masks.masks.items():
            for setting, values in getattr(mask, "per_task", {}).items():
                require_tasks(
                    f"algorithm.verl_ext.masks.{name}.{setting}",
                    values,
                    task_ids(self.train_dataset, task_key(self.config)),
                )

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        with advantage.batch_context(self._ext_context(batch)):
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        self.ext_batch.forget("advantages", "response_mask")
        self._ext_count_all()
        dropped = self.ext_dropped_rows(batch)
        if self.ext_masks or dropped is not None:
            return self._ext_mask(batch, metrics, dropped)
        return batch

    def _ext_context(self, batch: KVBatchMeta) -> advantage.BatchContext | None:
        """What our estimators are told of the batch; verl's own need nothing of it."""
        estimator = rewarded_estimator(self.config)
        if estimator not in ADVANTAGES | MIXERS:
            return None
        declared = advantage.declared_fields(estimator) if estimator in ADVANTAGES else ()
        theirs = {name: self.ext_fields[name] for name in declared}
        masks_too = self._ext_columns(self.ext_masks.needs)  # in one read
        data = self.ext_batch.get(batch, ["response_mask", *theirs.values(), *masks_too.values()])
        return advantage.BatchContext(
            sessions(batch.keys, batch.tags),
            data["response_mask"].to_padded_tensor(0).bool(),
            {ours: data[name] for ours, name in theirs.items()},
        )

    def _ext_columns(self, names: Iterable[str]) -> dict[str, str]:
        return {name: self.ext_fields.get(name, name) for name in names}

    def _ext_mask_fields(self, batch: KVBatchMeta, rows: Sessions) -> dict[str, Any]:
        """What the masks need: tokens side by side, and a session's reward and labels once."""
        columns = self._ext_columns(self.ext_masks.needs)
        data = self.ext_batch.get(batch, columns.values())
        fields: dict[str, Any] = {}
        for name, column in columns.items():
            value = data[column]
            if name in LABELS:
                fields[name] = rows.labels(value)
            elif name == "rewards":
                fields[name] = rows.outcomes(value.to_padded_tensor(0))
            else:
                fields[name] = rows.merged(value.to_padded_tensor(0))
        return fields

    def _ext_mask(
        self, batch: KVBatchMeta, metrics: dict[str, Any], dropped: torch.Tensor | None
    ) -> KVBatchMeta:
        """Writes the advantages; the masks of the loss wait until a critic has had its update.

        A batch with nothing left keeps its masks: verl's metrics divide by them, and the update is
        skipped anyway.
        """
        columns = self._ext_columns(self.ext_masks.needs)
        data = self.ext_batch.get(batch, ["advantages", "response_mask", *columns.values()])
        lengths = data["response_mask"]
        rows = sessions(batch.keys, batch.tags)
        advantages, sampled = (
            rows.merged(data[name].to_padded_tensor(0)) for name in ("advantages", "response_mask")
        )
        masked = self.ext_masks(advantages, sampled, self._ext_mask_fields(batch, rows))
        metrics.update(masked.metrics)
        for line in masked.news:
            print(f"[verl_ext] step {self.global_steps}: {line}")
        counted, advantages = rows.split(masked.counted), rows.split(masked.advantages)
        teaches, withheld = masked.teaches, masked.withheld
        if dropped is not None and dropped.any():
            counted = counted & ~dropped.unsqueeze(-1)
            advantages = torch.where(counted, advantages, 0)
            teaches, withheld = bool(advantages.any()), True
        self._ext_counted = counted
        self._ext_teaches = teaches or (self.ext_loss_teaches and bool(counted.any()))
        # verl's own rejections reduce response_mask alone, and verl divides by loss_mask.
        rejected = (self.config.algorithm.get("rollout_correction") or {}).get("rollout_rs")
        if not self._ext_teaches or not (withheld or rejected):
            return batch
        mask = response_to_nested(counted.to(torch.int64), lengths)
        self._ext_loss_masks = {"response_mask": mask, "loss_mask": mask}
        return self.ext_batch.put(batch, {"advantages": response_to_nested(advantages, lengths)})

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """Tells the masks when it is over; their metrics go past verl's aggregation of updates."""
        batch: KVBatchMeta = super().step(metrics, timing_raw)  # type: ignore[misc]
        found, news = self.ext_masks.end_step(self.global_steps)
        metrics.update(found)
        for line in news:
            print(f"[verl_ext] step {self.global_steps}: {line}")
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's, under response_mask and loss_mask written together: no loss sees two masks."""
        counted = self._ext_counted
        if counted is None:
            return super()._update_actor(batch, metrics)  # type: ignore[misc]
        if self._ext_loss_masks:
            batch = self.ext_batch.put(batch, self._ext_loss_masks)
        metrics["verl_ext/skipped_update"] = float(not self._ext_teaches)
        if not self._ext_teaches:
            print(f"[verl_ext] step {self.global_steps}: nothing left to learn from, no update")
        else:
            super()._update_actor(self._ext_rows_to_train(batch, counted), metrics)  # type: ignore[misc]
        return batch

    def _ext_rows_to_train(self, batch: KVBatchMeta, counted: torch.Tensor) -> KVBatchMeta:
        actor = self.config.actor_rollout_ref.actor
        mini_batch = actor.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n
        lengths = [tag["seq_len"] for tag in batch.tags]
        rows = rows_to_train(counted, lengths, mini_batch)
        if len(rows) == len(batch):
            return batch
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        parts = get_seqlen_balanced_partitions([lengths[row] for row in rows], ranks, True)
        return batch.select_keys([batch.keys[rows[i]] for part in parts for i in part])

    def ext_state(self) -> dict[str, Any]:
        """Adds the masks'."""
        return super().ext_state() | {"masks": self.ext_masks.state_dict()}

    def ext_restore(self, state: Mapping[str, Any]) -> list[str]:
        """Restores the masks that the checkpoint knows."""
        anew = self.ext_masks.load_state_dict(state.get("masks", {}))
        return super().ext_restore(state) + [f"mask {name}" for name in anew]
