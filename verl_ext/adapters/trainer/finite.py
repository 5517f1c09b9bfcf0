"""A number that is none stops the run at the stage it comes from, with a file to look into.

verl trains on: one reward that is NaN is NaN in every weight after the next update, and what is
seen of it, steps later, is a model that answers nonsense.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transfer_queue import KVBatchMeta

from verl_ext.adapters.trainer.stage import Stage, task_key

KEY = "algorithm.verl_ext.not_finite"
VERSION = 1
# Stage -> what it has written, of which every sampled token must be a number.
WRITTEN = {
    "rewards": ("rm_scores", "rollout_log_probs"),
    "log_probs": ("old_log_probs", "entropy"),
    "reference": ("ref_log_prob",),
    "advantages": ("advantages",),
}
GRADIENT = ("actor/grad_norm", "actor/loss")
TOKENS = ("prompts", "responses", "response_mask")
LABELS = ("uid", "data_source", "reward_model", "extra_info")
FIELDS = (*TOKENS, *(name for names in WRITTEN.values() for name in names), "returns", *LABELS)


class NotFiniteError(RuntimeError):
    """A stage gave NaN or infinity; the message names the file with what it had in hand."""


class Finite(Stage):
    """Looks at what each stage of a step has written."""

    def _balance_batch(self, batch: KVBatchMeta, *rest: Any, **more: Any) -> KVBatchMeta:
        return self._ext_checked("rewards", super()._balance_batch(batch, *rest, **more))  # type: ignore[misc]

    def _compute_old_log_prob(self, batch: KVBatchMeta, *rest: Any, **more: Any) -> KVBatchMeta:
        return self._ext_checked(
            "log_probs",
            super()._compute_old_log_prob(batch, *rest, **more),  # type: ignore[misc]
        )

    def _compute_ref_log_prob(self, batch: KVBatchMeta, *rest: Any, **more: Any) -> KVBatchMeta:
        return self._ext_checked(
            "reference",
            super()._compute_ref_log_prob(batch, *rest, **more),  # type: ignore[misc]
        )

    def _compute_advantage(self, batch: KVBatchMeta, *rest: Any, **more: Any) -> KVBatchMeta:
        return self._ext_checked(
            "advantages",
            super()._compute_advantage(batch, *rest, **more),  # type: ignore[misc]
        )

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        updated: KVBatchMeta = super()._update_actor(batch, metrics)  # type: ignore[misc]
        # Other metrics of an update, such as the share of clipped tokens, may have no value.
        told = [name for name in metrics if name in GRADIENT or name.endswith("_loss")]
        wrong = [name for name in told if not _is_number(metrics[name])]
        if wrong:
            rows = list(range(len(batch)))
            self._ext_not_finite_in("update", ", ".join(wrong), updated, rows)
        return updated

    def _ext_checked(self, stage: str, batch: KVBatchMeta) -> KVBatchMeta:
        if batch.partition_id != "train":
            return batch
        # Through what other stages read too, so that a field comes once from verl's queue.
        names = [name for name in WRITTEN[stage] if self._ext_is_written(name)]
        data = self.ext_batch.get(batch, [*names, "response_mask"])
        masks = [row.bool() for row in data["response_mask"].unbind()]
        for name in names:
            rows = data[name].unbind()
            bad = [
                n
                for n, (row, mask) in enumerate(zip(rows, masks, strict=True))
                if not (row.isfinite() | ~mask).all() and not batch.tags[n].get("is_padding")
            ]
            if bad:
                self._ext_not_finite_in(stage, name, batch, bad)
        return batch

    def _ext_is_written(self, name: str) -> bool:
        """Whether verl has a field at all, under this configuration."""
        correction = self.config.algorithm.get("rollout_correction") or {}
        if name == "rollout_log_probs":
            return bool(self.config.actor_rollout_ref.rollout.calculate_log_probs)
        if name == "ref_log_prob":
            return self.ext_wants_reference
        return name != "entropy" or not correction.get("bypass_mode")

    def _ext_not_finite_in(
        self, stage: str, name: str, batch: KVBatchMeta, bad: Sequence[int]
    ) -> None:
        file = _folder(self.config) / f"not_finite_step_{self.global_steps}_{stage}.pt"
        # An advantage is made of the whole batch; elsewhere a row speaks for itself.
        rows = range(len(batch)) if stage == "advantages" else bad
        kept = batch.select_keys([batch.keys[row] for row in rows])
        data = _there(kept, list(dict.fromkeys((*FIELDS, task_key(self.config)))))
        torch.save(
            {
                "version": VERSION,
                "stage": stage,
                "field": name,
                "step": self.global_steps,
                "keys": list(kept.keys),
                "bad": [batch.keys[row] for row in bad],
                "rows": {name: [_own(row) for row in rows] for name, rows in data.items()},
                "config": OmegaConf.to_container(self.config, resolve=True),
            },
            file,
        )
        said = (
            f"step {self.global_steps}: {name} is NaN or infinite after the stage '{stage}', in "
            f"{len(bad)} of {len(batch)} rows, first {batch.keys[bad[0]]}. Look into it: "
            f"verl-ext replay {file}"
        )
        if not self.ext_goes_on:
            raise NotFiniteError(f"{said}  (go on all the same: ++{KEY}=report)")
        print(f"[verl_ext] {said}")


def _there(batch: KVBatchMeta, names: Sequence[str]) -> dict[str, Any]:
    """Those of the fields that the batch has, a list of its rows' values each."""
    found = tq.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names)
    )
    data = {name: found[name] for name in names if name in found.keys()}  # noqa: SIM118
    return {
        name: list(value.unbind()) if isinstance(value, Tensor) else [_plain(v) for v in value]
        for name, value in data.items()
    }


def _own(row: Any) -> Any:
    """A row's tensor without the rest of the batch, which it is a view of."""
    return row.clone() if isinstance(row, Tensor) else row


def _plain(label: Any) -> Any:
    """A label of types that a file of tensors may hold."""
    return json.loads(json.dumps(getattr(label, "data", label), default=str))


def _is_number(value: Any) -> bool:
    return bool(torch.as_tensor(value, dtype=torch.float64).isfinite().all())


def _folder(config: DictConfig) -> Path:
    """The run's directory, or that of its checkpoints where it has no metrics file."""
    metrics = os.environ.get("VERL_FILE_LOGGER_PATH")
    folder = Path(metrics).parent if metrics else Path(config.trainer.default_local_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
