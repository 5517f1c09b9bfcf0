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
from verl_ext.adapters.teacher.own import AveragedTeacher, OwnTeacher, own_teacher
from verl_ext.adapters.teacher.reference import ReferenceLogits, teacher_worker
from verl_ext.adapters.teacher.settings import Divergence
from verl_ext.adapters.teacher.support import teacher_on_support

SETTINGS = "verl_ext"  # below rollout.custom, the one free place of the configuration workers get
TEACHER_LOG_PROBS = "verl_ext_teacher_log_probs"
_EVERYWHERE = Dispatch.ONE_TO_ALL  # type: ignore[attr-defined]
_OF_ACTOR = make_nd_compute_dataproto_dispatch_fn(mesh_name="actor")  # type: ignore[no-untyped-call]


class Taught:
    """Mixed in before a worker of verl's: overrides stages, copies none."""

    config: Any
    actor: Any
    ref: Any
    loss_fn: Any
    ref_worker_cls: Any
    role: str
    _ext_loss: DistillationLoss | None = None
    _ext_teacher: OwnTeacher | None = None

    @property
    def _ext_settings(self) -> Mapping[str, Any]:
        return (self.config.rollout.get("custom") or {}).get(SETTINGS) or {}

    @register(dispatch_mode=_EVERYWHERE)  # type: ignore[no-untyped-call,untyped-decorator]
    def init_model(self) -> None:
        """As verl's; the reference model is the teacher's, the actor's loss ours."""
        path = self._ext_settings.get("teacher_path")
        if path:
            self.ref_worker_cls = partial(teacher_worker, model=self.config.model, path=path)
        super().init_model()  # type: ignore[misc]
        divergence, own = (self._ext_settings.get(name) for name in ("divergence", "own_teacher"))
        if "actor" not in self.role:
            return
        actor_config = self.loss_fn.keywords["config"]
        if divergence:  # an own teacher and a server are asked beforehand
            logits = ReferenceLogits(self.ref.engine) if path and not own else None
            self._ext_loss = DistillationLoss(actor_config, Divergence(**divergence), logits)
            self.actor.set_loss_fn(self._ext_loss)
        else:  # verl's own distillation loss has nothing to do: the teacher speaks in the advantage
            from verl.workers.utils.losses import ppo_loss

            self.actor.set_loss_fn(partial(ppo_loss, config=actor_config))
        if own:
            self._ext_teacher = own_teacher(own, self, self.config.actor.strategy)

    @register(dispatch_mode=_OF_ACTOR)  # type: ignore[no-untyped-call,untyped-decorator]
    def update_actor(self, data: TensorDict) -> TensorDict:
        """As verl's, with the teacher's weights at hand where the loss asks for its logits."""
        loss = self._ext_loss
        tu.assign_non_tensor(data, **(FLAGS if loss else dict.fromkeys(FLAGS, False)))
        reads_logits = loss is not None and loss.teacher_logits is not None
        with self.ref.engine.eval_mode() if reads_logits else nullcontext():
            return super().update_actor(data)  # type: ignore[misc]

    @register(dispatch_mode=_OF_ACTOR)  # type: ignore[no-untyped-call,untyped-decorator]
    def ext_teacher_log_prob(self, data: TensorDict) -> TensorDict | None:
        """The log-probs of the policy's own teacher, as verl's ``compute_log_prob`` gives them.

        Args:
            data: ``input_ids``, ``position_ids``, ``loss_mask``, ``responses``, ``response_mask``,
                jagged, of the sequences that the teacher reads; ``temperature``.

        Returns:
            ``TEACHER_LOG_PROBS``, jagged like ``input_ids``: at each position of the next token,
            right where that is sampled.
        """
        assert self._ext_teacher is not None
        output = self._ext_teacher.infer(data)
        if output is None:
            return None
        return tu.get_tensordict({TEACHER_LOG_PROBS: output["log_probs"].cpu()}, {})

    @register(dispatch_mode=_OF_ACTOR)  # type: ignore[no-untyped-call,untyped-decorator]
    def ext_teacher_on_support(self, data: TensorDict) -> TensorDict | None:
        """What the policy's own teacher says of the policy's likely tokens.

        Args:
            data: ``support.FIELDS``, jagged, of the batch; ``temperature``.

        Returns:
            See :func:`~verl_ext.adapters.teacher.support.teacher_on_support`.
        """
        assert self._ext_teacher is not None
        own = self._ext_settings["own_teacher"]
        return teacher_on_support(
            self.actor,
            self._ext_teacher,
            data,
            top_k=self._ext_settings["divergence"]["top_k"],
            strategy=self.config.actor.strategy,
            floor=own["log_prob_floor"],
        )

    @register(dispatch_mode=_EVERYWHERE)  # type: ignore[no-untyped-call,untyped-decorator]
    def ext_update_average(self) -> tuple[float, float]:
        """Moves an averaged teacher; this rank's part of what the metric of its distance needs."""
        assert isinstance(self._ext_teacher, AveragedTeacher)
        return self._ext_teacher.update()

    @register(dispatch_mode=_EVERYWHERE)  # type: ignore[no-untyped-call,untyped-decorator]
    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """An averaged teacher first: when verl is done, everything is there."""
        if isinstance(self._ext_teacher, AveragedTeacher):
            self._ext_teacher.save(local_path)
        super().save_checkpoint(local_path, *args, **kwargs)  # type: ignore[misc]

    @register(dispatch_mode=_EVERYWHERE)  # type: ignore[no-untyped-call,untyped-decorator]
    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """An averaged teacher last: where none was saved it begins with the weights verl loads."""
        super().load_checkpoint(local_path, *args, **kwargs)  # type: ignore[misc]
        if isinstance(self._ext_teacher, AveragedTeacher):
            self._ext_teacher.load(local_path)


class TaughtWorker(Taught, ActorRolloutRefWorker):
    """Of the trainers whose rollouts share the actor's devices."""


class TaughtDetachedWorker(Taught, DetachActorWorker):
    """Of the asynchronous trainer on separate devices."""
