"""verl's actor workers with a teacher beside the actor and our loss function in it."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

from tensordict import TensorDict
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import (
    Dispatch,
    make_nd_compute_dataproto_dispatch_fn,
    register,
)
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker

from verl_ext.adapters.teacher.loss import FLAGS, DistillationLoss
from verl_ext.adapters.teacher.reference import ReferenceLogits, teacher_worker
from verl_ext.adapters.teacher.settings import Divergence

SETTINGS = "verl_ext"  # below rollout.custom, the one free place of the configuration workers get


class Taught:
    """Mixed in before a worker of verl's: overrides stages, copies none."""

    config: Any
    actor: Any
    ref: Any
    loss_fn: Any
    ref_worker_cls: Any
    role: str
    _ext_loss: DistillationLoss | None = None

    @property
    def _ext_settings(self) -> Mapping[str, Any]:
        return (self.config.rollout.get("custom") or {}).get(SETTINGS) or {}

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[attr-defined,no-untyped-call,untyped-decorator]
    def init_model(self) -> None:
        """As verl's; the reference model is the teacher's, the actor's loss ours."""
        path = self._ext_settings.get("teacher_path")
        if path:
            self.ref_worker_cls = partial(teacher_worker, model=self.config.model, path=path)
        super().init_model()  # type: ignore[misc]
        divergence = self._ext_settings.get("divergence")
        if "actor" not in self.role:
            return
        actor_config = self.loss_fn.keywords["config"]
        if divergence:
            logits = ReferenceLogits(self.ref.engine) if path else None
            self._ext_loss = DistillationLoss(actor_config, Divergence(**divergence), logits)
            self.actor.set_loss_fn(self._ext_loss)
        else:  # verl's own distillation loss has nothing to do: the teacher speaks in the advantage
            from verl.workers.utils.losses import ppo_loss

            self.actor.set_loss_fn(partial(ppo_loss, config=actor_config))

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))  # type: ignore[no-untyped-call,untyped-decorator]
    def update_actor(self, data: TensorDict) -> TensorDict:
        """As verl's, with the teacher's weights at hand where the loss asks for its logits."""
        loss = self._ext_loss
        tu.assign_non_tensor(data, **(FLAGS if loss else dict.fromkeys(FLAGS, False)))
        reads_logits = loss is not None and loss.teacher_logits is not None
        with self.ref.engine.eval_mode() if reads_logits else nullcontext():
            return super().update_actor(data)  # type: ignore[misc]


class TaughtWorker(Taught, ActorRolloutRefWorker):
    """Of the trainers whose rollouts share the actor's devices."""


class TaughtDetachedWorker(Taught, DetachActorWorker):
    """Of the asynchronous trainer on separate devices."""
