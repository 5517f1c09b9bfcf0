"""A policy as its own teacher, in the actor's worker: whose weights read the teacher's prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu

from verl_ext.adapters.teacher import average_file, layout
from verl_ext.adapters.teacher.loss import FLAGS
from verl_ext.adapters.teacher.reference import ReferenceLogits
from verl_ext.adapters.teacher.weights import local_weights, weights_in_place
from verl_ext.losses.interpolated import interpolated_log_probs
from verl_ext.self_teaching.ema import Ema


class OwnTeacher(Protocol):
    """What a worker asks of it."""

    def infer(self, data: TensorDict) -> TensorDict | None:
        """The actor's ``infer_batch``, with the teacher's ``log_probs``.

        They may be 0 where nothing is sampled. None on ranks without outputs.
        """


class LiveTeacher:
    """``source: self``: the weights that are being trained.

    Args:
        actor: verl's ``TrainingWorker``.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def infer(self, data: TensorDict) -> TensorDict | None:
        """See :class:`OwnTeacher`."""
        tu.assign_non_tensor(data, compute_loss=False)
        output: TensorDict | None = self.actor.infer_batch(data)
        return output


class AveragedTeacher:
    """``source: ema``: the moving average of this rank's weights, kept in host memory.

    The average is of the weights that the engine computes with: float32 shards under FSDP2, on
    Megatron those of the model's own type, whole on each data-parallel rank.

    Args:
        actor: verl's ``TrainingWorker``.
        rate: how far the average moves a step.
    """

    def __init__(self, actor: Any, rate: float) -> None:
        self.actor, self.rate = actor, rate
        self.average = self._begin()

    def _begin(self) -> Ema:
        with self.actor.engine.eval_mode():
            return Ema(local_weights(self.actor.engine), self.rate)

    def infer(self, data: TensorDict) -> TensorDict | None:
        """See :class:`OwnTeacher`; the live weights are back afterwards, also after an error."""
        tu.assign_non_tensor(data, compute_loss=False, disable_auto_offload=True)
        engine = self.actor.engine
        with engine.eval_mode(), weights_in_place(engine, self.average.weights):
            output: TensorDict | None = self.actor.infer_batch(data)
            return output

    def update(self) -> tuple[float, float]:
        """Moves the average, and measures what :meth:`Ema.squared_distance` does."""
        with self.actor.engine.eval_mode():
            live = local_weights(self.actor.engine)
            self.average.update(live)
            return self.average.squared_distance(live)

    def save(self, folder: str) -> None:
        """Writes this rank's part into a checkpoint of the actor."""
        average_file.save(folder, self.average.state_dict())

    def load(self, folder: str) -> None:
        """Takes up this rank's part, after the actor's own; without one the average begins anew.

        Raises:
            SettingsError: it was saved by another number of ranks, or of other shards.
        """
        self.average = self._begin()
        average_file.load(folder, self.average)


@dataclass(frozen=True)
class InterpolatedLogProbs:
    """Called by an engine with its logits: log-probs under those between the reference's and them.

    Attributes:
        ref_logits: the reference's logits of a micro-batch, laid out as the actor's.
        rate: how far from the reference to the actor.
        strategy: of the engine.
    """

    ref_logits: ReferenceLogits
    rate: float
    strategy: str

    def __call__(
        self,
        model_output: Mapping[str, Tensor] | None = None,
        data: TensorDict | None = None,
        dp_group: Any = None,
        student_logits: Tensor | None = None,
        data_format: str = "thd",
    ) -> Any:
        """verl's two calling conventions; the second, for a loss, has none to give."""
        if student_logits is None:
            return torch.zeros(()), {}
        assert data is not None
        tokens = layout.sampled_tokens(data)
        slots = layout.on_this_rank(tokens.slots, self.strategy, data_format).flatten()
        rows = slots.nonzero().squeeze(-1)
        values = interpolated_log_probs(
            self.ref_logits(data).flatten(0, 1),
            student_logits.flatten(0, 1),
            tokens.labels[slots[rows] - 1],
            self.rate,
            rows=rows,
            vocab=layout.vocabulary_shard(self.strategy, student_logits.shape[-1]),
        )
        whole = torch.zeros(slots.shape, dtype=values.dtype, device=values.device)
        return {"log_probs": whole.index_put((rows,), values).view(student_logits.shape[:2])}


class TrustRegionTeacher:
    """``source: trust_region``: logits between the reference policy's and the live ones.

    Args:
        actor: verl's ``TrainingWorker``.
        reference: the reference worker's, with the policy's first weights.
        rate: how far from the reference to the live policy.
        strategy: of the engines.
    """

    def __init__(self, actor: Any, reference: Any, rate: float, strategy: str) -> None:
        self.actor, self.reference = actor, reference
        self.processor = InterpolatedLogProbs(ReferenceLogits(reference.engine), rate, strategy)

    def infer(self, data: TensorDict) -> TensorDict | None:
        """See :class:`OwnTeacher`; the actor has its own loss again afterwards."""
        tu.assign_non_tensor(data, compute_loss=True, **FLAGS)
        loss = self.actor.loss_fn
        self.actor.set_loss_fn(self.processor)
        try:
            with self.reference.engine.eval_mode():
                output: TensorDict | None = self.actor.infer_batch(data)
                return output
        finally:
            self.actor.set_loss_fn(loss)


def own_teacher(settings: Mapping[str, Any], worker: Any, strategy: str) -> OwnTeacher:
    """The teacher of a worker.

    Args:
        settings: ``source`` and ``rate``.
        worker: verl's, with its actor and, for ``trust_region``, its reference.
        strategy: of the engines.
    """
    source, rate = settings["source"], settings["rate"]
    if source == "ema":
        return AveragedTeacher(worker.actor, rate)
    if source == "trust_region":
        return TrustRegionTeacher(worker.actor, worker.ref, rate, strategy)
    return LiveTeacher(worker.actor)
