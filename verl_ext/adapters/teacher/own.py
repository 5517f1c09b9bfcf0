"""A policy as its own teacher, in the actor's worker: whose weights read the teacher's prompt."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu

from verl_ext.adapters.teacher import average_file
from verl_ext.adapters.teacher.layout import Here
from verl_ext.adapters.teacher.logits import AtIds, SampledLogProbs, infer_with, read_logits
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

    def log_probs_at(self, data: TensorDict, ids: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The teacher's log-probs of some tokens at each sampled position, row by row.

        Args:
            data: as for :meth:`infer`, with ``ROW_NUMBER``.
            ids: number of a row -> (sampled tokens, K), on ranks with logits.

        Returns:
            The same of log-probs in nats; empty on ranks without logits.
        """


class LiveTeacher:
    """``source: self``: the weights that are being trained.

    Args:
        actor: verl's ``TrainingWorker``.
        strategy: of the engine.
    """

    def __init__(self, actor: Any, strategy: str) -> None:
        self.actor, self.strategy = actor, strategy

    def infer(self, data: TensorDict) -> TensorDict | None:
        """See :class:`OwnTeacher`."""
        tu.assign_non_tensor(data, compute_loss=False)
        output: TensorDict | None = self.actor.infer_batch(data)
        return output

    def log_probs_at(self, data: TensorDict, ids: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See :class:`OwnTeacher`."""
        return read_logits(self.actor, data, self.strategy, AtIds(ids))


class AveragedTeacher:
    """``source: ema``: the moving average of this rank's weights, kept in host memory.

    The average is of the weights that the engine computes with: float32 shards under FSDP2, on
    Megatron those of the model's own type, whole on each data-parallel rank.

    Args:
        actor: verl's ``TrainingWorker``.
        rate: how far the average moves a step.
        strategy: of the engine.
    """

    def __init__(self, actor: Any, rate: float, strategy: str) -> None:
        self.actor, self.rate, self.strategy = actor, rate, strategy
        self.average = self._begin()

    def _begin(self) -> Ema:
        with self.actor.engine.eval_mode():
            return Ema(local_weights(self.actor.engine), self.rate)

    @contextmanager
    def _speaking(self, data: TensorDict) -> Iterator[None]:
        """The live weights are back afterwards, also after an error."""
        tu.assign_non_tensor(data, disable_auto_offload=True)
        engine = self.actor.engine
        with engine.eval_mode(), weights_in_place(engine, self.average.weights):
            yield

    def infer(self, data: TensorDict) -> TensorDict | None:
        """See :class:`OwnTeacher`."""
        tu.assign_non_tensor(data, compute_loss=False)
        with self._speaking(data):
            output: TensorDict | None = self.actor.infer_batch(data)
            return output

    def log_probs_at(self, data: TensorDict, ids: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See :class:`OwnTeacher`."""
        with self._speaking(data):
            return read_logits(self.actor, data, self.strategy, AtIds(ids))

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
        self.rate, self.strategy = rate, strategy

    def infer(self, data: TensorDict) -> TensorDict | None:
        """See :class:`OwnTeacher`."""
        processor = SampledLogProbs(self.strategy, self._between)
        with self.reference.engine.eval_mode():
            return infer_with(self.actor, data, processor)

    def log_probs_at(self, data: TensorDict, ids: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See :class:`OwnTeacher`."""
        with self.reference.engine.eval_mode():
            return read_logits(self.actor, data, self.strategy, AtIds(ids, self._between))

    def _between(self, logits: Tensor, ids: Tensor, here: Here) -> Tensor:
        ref_logits = ReferenceLogits(self.reference.engine)(here.data).flatten(0, 1)
        return interpolated_log_probs(
            ref_logits, logits, ids, self.rate, rows=here.rows, vocab=here.vocab
        )


def own_teacher(settings: Mapping[str, Any], worker: Any, strategy: str) -> OwnTeacher:
    """The teacher of a worker.

    Args:
        settings: ``source`` and ``rate``.
        worker: verl's, with its actor and, for ``trust_region``, its reference.
        strategy: of the engines.
    """
    source, rate = settings["source"], settings["rate"]
    if source == "ema":
        return AveragedTeacher(worker.actor, rate, strategy)
    if source == "trust_region":
        return TrustRegionTeacher(worker.actor, worker.ref, rate, strategy)
    return LiveTeacher(worker.actor, strategy)
