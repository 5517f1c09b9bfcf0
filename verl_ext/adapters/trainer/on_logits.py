"""A policy that teaches itself on its logits: the loss needs the teacher, which is asked before."""

from typing import Any

import torch
from transfer_queue import KVBatchMeta

from verl_ext.adapters.teacher.loss import STATISTICS, TAUGHT
from verl_ext.adapters.teacher.support import FIELDS, REPLACED, TEACHER_PROMPT
from verl_ext.adapters.trainer.averaging import Averaging
from verl_ext.adapters.trainer.self_teaching import METRIC, rows_of

PER_TOKEN = {f"verl_ext/divergence/{name}" for name in ("value", *STATISTICS.values())}


class OnLogits(Averaging):
    """What ``algorithm.verl_ext.divergence`` asks of a policy's own teacher."""

    @property
    def ext_on_logits(self) -> bool:
        """Whether the loss compares the policy with its own teacher."""
        return self.ext_own_teacher is not None and self.ext_plan.divergence is not None

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's, and then asks the teacher."""
        batch = super()._compute_advantage(batch, metrics)
        if not self.ext_on_logits:
            return batch
        with self.ext_asking():
            return self._ext_on_support(batch, metrics)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's; the metrics of the divergence become means over the taught tokens."""
        batch = super()._update_actor(batch, metrics)
        if self.ext_on_logits:
            self._ext_per_taught_token(batch, metrics)
        return batch

    def _ext_on_support(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Writes what the loss needs: the teacher's log-probs of the policy's likely tokens."""
        lessons, has = self._ext_lessons(batch), self._ext_taught_rows(batch)
        prompts = [
            torch.tensor(lessons[row].ids if taught else [0]) for row, taught in enumerate(has)
        ]
        asked = self.ext_batch.put(
            batch, {TEACHER_PROMPT: torch.nested.as_nested_tensor(prompts, layout=torch.jagged)}
        )
        self.actor_rollout_wg.ext_teacher_on_support(
            KVBatchMeta(
                keys=asked.keys,
                tags=asked.tags,
                partition_id=asked.partition_id,
                fields=list(FIELDS),
                extra_info=self._ext_of_reading(),
            )
        )
        mask = self.ext_batch.get(batch, ["response_mask"])["response_mask"].unbind()
        taught = [torch.full_like(row, int(known)) for row, known in zip(mask, has, strict=True)]
        batch = self.ext_batch.put(
            batch, {TAUGHT: torch.nested.as_nested_tensor(taught, layout=torch.jagged)}
        )
        tokens = sum(int(row.sum()) for row, known in zip(mask, has, strict=True) if known)
        self._ext_count_replaced(batch, tokens, metrics)
        return batch

    def _ext_count_replaced(self, batch: KVBatchMeta, tokens: int, metrics: dict[str, Any]) -> None:
        divergence = self.ext_plan.divergence
        assert divergence is not None
        replaced = sum(map(int, rows_of(self.ext_batch.get(batch, [REPLACED])[REPLACED])))
        numbers = max(1, tokens * (divergence.top_k or 1))
        metrics[f"{METRIC}/support_non_finite"] = replaced / numbers

    def _ext_per_taught_token(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        """Of the divergence's metrics: means over all tokens of the loss become such over these."""
        fields = self.ext_batch.get(batch, ["response_mask", TAUGHT])
        counted = fields["response_mask"].values().bool()
        judged = (counted & fields[TAUGHT].values().bool()).sum().item()
        for name in PER_TOKEN & metrics.keys():
            metrics[name] *= counted.sum().item() / max(1, judged)
