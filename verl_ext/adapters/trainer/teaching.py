"""A teacher beside the trainer: its worker, its log-probs, and its part of the advantage."""

from dataclasses import asdict
from typing import Any

import ray
import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role, need_reference_policy
from verl.workers.utils.padding import response_from_nested, response_to_nested

from verl_ext.adapters.teacher import settings as teacher_settings
from verl_ext.adapters.teacher.check import require_path
from verl_ext.adapters.teacher.task import task_alone
from verl_ext.adapters.teacher.workers import SETTINGS, TaughtDetachedWorker, TaughtWorker
from verl_ext.adapters.trainer.stage import Stage
from verl_ext.catalog import MIXERS
from verl_ext.tensor_ops import finite_or

# Where verl's colocated worker holds the actor -> the same with a reference model.
WITH_REFERENCE = {Role.ActorRollout: Role.ActorRolloutRef}


class Teaching(Stage):
    """What ``algorithm.verl_ext.teacher`` and ``.divergence`` ask of the trainer."""

    base_mode: str
    use_reference_policy: bool
    role_worker_mapping: dict[Role, Any]
    mapping: dict[Role, str]

    def __init__(self, config: DictConfig) -> None:
        self.ext_plan = teacher_settings.plan(config)
        teacher, divergence = self.ext_plan.teacher, self.ext_plan.divergence
        if teacher:
            ours = {
                "teacher_path": require_path(teacher) if teacher.source == "ref" else None,
                "divergence": asdict(divergence) if divergence else None,
                "own_teacher": _told_workers(teacher) if teacher.is_own else None,
            }
            with open_dict(config):
                rollout = config.actor_rollout_ref.rollout
                rollout.custom = {**(rollout.get("custom") or {}), SETTINGS: ours}
        super().__init__(config)  # type: ignore[call-arg]
        if teacher and teacher.needs_reference:
            self.use_reference_policy = True

    @property
    def ext_loss_teaches(self) -> bool:
        """A divergence does, whatever the advantages are."""
        return self.ext_plan.divergence is not None

    @property
    def ext_wants_reference(self) -> bool:
        """Not where a divergence alone asks it, for its logits; see :class:`Stage`."""
        teacher = self.ext_plan.teacher
        if not teacher or not teacher.needs_reference:
            return True
        if teacher.is_own:
            return bool(need_reference_policy(self.config))  # its log-probs are for verl's KL terms
        return self.ext_plan.needs_log_probs

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()  # type: ignore[misc]
        teacher = self.ext_plan.teacher
        if not teacher:
            return
        worker = TaughtDetachedWorker if self.base_mode == "separate_async" else TaughtWorker
        roles = self.role_worker_mapping
        for role in (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef):
            if role not in roles:
                continue
            del roles[role]
            pool = self.mapping.pop(role)
            role = WITH_REFERENCE.get(role, role) if teacher.needs_reference else role
            roles[role], self.mapping[role] = ray.remote(worker), pool
            if role == Role.Actor and teacher.needs_reference:
                roles[Role.RefPolicy], self.mapping[Role.RefPolicy] = ray.remote(worker), pool

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's; left out where nobody reads what the reference worker says."""
        if not self.ext_wants_reference:
            return batch
        return super()._compute_ref_log_prob(batch, metrics)  # type: ignore[misc]

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        mix = self.ext_plan.mix
        if mix is None:
            return super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        with task_alone(self.config.algorithm, mix):
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        self.ext_batch.forget("advantages", "response_mask")
        return self._ext_mix(batch, metrics)

    def _ext_mix(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Writes A = task_weight * A_task + the teacher's term."""
        mix = self.ext_plan.mix
        assert mix is not None
        lengths = self.ext_batch.get(batch, ["response_mask"])["response_mask"]
        mask = lengths.to_padded_tensor(0).bool()
        task = self.ext_batch.get(batch, ["advantages"])["advantages"].to_padded_tensor(0.0)
        advantages = mix.task_weight * task
        if self.ext_plan.needs_log_probs:
            name = {"old": "old_log_probs", "rollout": "rollout_log_probs"}[mix.log_probs]
            student = self.ext_batch.get(batch, [name])[name].to_padded_tensor(0.0)
            teacher = self._ext_teacher_log_probs(batch, mask, metrics)
            taught = self.ext_taught_tokens(batch, mask)
            term = MIXERS[str(self.config.algorithm.adv_estimator)].function
            advantages = advantages + term(student, teacher, taught, **mix.term)
            gap = torch.where(taught, student - teacher, 0).sum() / taught.sum().clamp_min(1)
            metrics["verl_ext/teacher/reverse_kl"] = gap.item()
        return self.ext_batch.put(batch, {"advantages": response_to_nested(advantages, lengths)})

    def ext_taught_tokens(self, batch: KVBatchMeta, mask: Tensor) -> Tensor:
        """(rows, time) True on the sampled tokens that the teacher judges."""
        dropped = self.ext_dropped_rows(batch)
        return mask if dropped is None else mask & ~dropped.unsqueeze(-1)

    def _ext_teacher_log_probs(
        self, batch: KVBatchMeta, mask: Tensor, metrics: dict[str, Any]
    ) -> Tensor:
        """(rows, time): the teacher's, finite; what was not is counted."""
        teacher = self.ext_plan.teacher
        assert teacher is not None
        if teacher.source == "server":  # finite since the rollout, which has counted what was not
            full = self.ext_batch.get(batch, ["teacher_logprobs", "response_mask"])
            packed = full["teacher_logprobs"]
            flat = torch.nested.nested_tensor_from_jagged(
                packed.values().squeeze(-1), packed.offsets()
            )
            return response_from_nested(flat, full["response_mask"]).to_padded_tensor(0.0)
        nested = self.ext_batch.get(batch, ["ref_log_prob"])["ref_log_prob"]
        values, replaced = finite_or(nested.to_padded_tensor(0.0), teacher.log_prob_floor)
        share = (replaced & mask).sum() / mask.sum().clamp_min(1)
        metrics["verl_ext/teacher/non_finite"] = share.item()
        return values

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's; our names of the loss's metrics lose the prefix that it gives them."""
        batch = super()._update_actor(batch, metrics)  # type: ignore[misc]
        for name in [name for name in metrics if name.startswith("actor/verl_ext/")]:
            metrics[name.removeprefix("actor/")] = metrics.pop(name)
        return batch


def _told_workers(teacher: teacher_settings.Teacher) -> dict[str, Any]:
    """What a worker needs to know of a policy's own teacher."""
    return {name: getattr(teacher, name) for name in ("source", "rate", "log_prob_floor")}
