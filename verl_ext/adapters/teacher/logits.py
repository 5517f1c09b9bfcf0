"""Forward passes of verl's engines that are read where the logits are, and not afterwards.

An engine hands its logits to a function where it would ask it for a loss, micro-batch by
micro-batch, and takes one number a token back. Whoever needs more, a list of tokens, keeps it by
the number of its row.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu

from verl_ext.adapters.teacher import layout
from verl_ext.adapters.teacher.layout import Here
from verl_ext.adapters.teacher.loss import FLAGS
from verl_ext.losses.support import log_probs_at, most_likely_tokens

ROW_NUMBER = "verl_ext_row"


# logits (tokens, vocabulary), ids (here, some), where -> log-probs (here, some)
LogProbs = Callable[[Tensor, Tensor, Here], Tensor]


def _plain(logits: Tensor, ids: Tensor, here: Here) -> Tensor:
    return log_probs_at(logits, ids, rows=here.rows, vocab=here.vocab)


@dataclass(frozen=True)
class AtLogits(ABC):
    """Called by an engine with its logits.

    Attributes:
        strategy: of the engine.
    """

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
        here = Here.find(student_logits, data, self.strategy, data_format)
        return {"log_probs": self.of(student_logits, here)}

    @abstractmethod
    def of(self, logits: Tensor, here: Here) -> Tensor:
        """The engine's output, (rows, tokens), of (rows, tokens, vocabulary)."""


@dataclass(frozen=True)
class SampledLogProbs(AtLogits):
    """The log-probs of the sampled tokens.

    Attributes:
        log_probs: makes them of the logits.
    """

    log_probs: LogProbs

    def of(self, logits: Tensor, here: Here) -> Tensor:
        """As laid out by the engine; 0 at other tokens."""
        labels = here.tokens.labels[here.chosen].unsqueeze(-1)
        values = self.log_probs(logits.flatten(0, 1), labels, here).squeeze(-1)
        return here.laid_out(values, logits.shape[:2])


@dataclass(frozen=True)
class MostLikely:
    """Reads the ids of the K most likely tokens.

    Attributes:
        top_k: K.
    """

    top_k: int

    def __call__(self, logits: Tensor, here: Here) -> Tensor:
        """(here, K)."""
        return most_likely_tokens(logits, self.top_k, rows=here.rows, vocab=here.vocab)


@dataclass(frozen=True)
class AtIds:
    """Reads the log-probs of tokens that are known for each row.

    Attributes:
        ids: number of a row -> (sampled tokens, K).
        log_probs: makes them of the logits.
    """

    ids: Mapping[int, Tensor]
    log_probs: LogProbs = _plain

    def __call__(self, logits: Tensor, here: Here) -> Tensor:
        """(here, K)."""
        asked = torch.cat([self.ids[row] for row in here.data[ROW_NUMBER].tolist()])
        ids = asked[here.chosen.to(asked.device)].to(logits.device, torch.int64)
        return self.log_probs(logits, ids, here)


@dataclass(frozen=True)
class Reader(AtLogits):
    """Keeps what is read of the logits, row by row.

    Attributes:
        read: makes (here, K) of (tokens, vocabulary).
        found: number of a row -> (sampled tokens, K), on the CPU.
    """

    read: Callable[[Tensor, Here], Tensor]
    found: dict[int, Tensor] = field(default_factory=dict)

    def of(self, logits: Tensor, here: Here) -> Tensor:
        """Zeros, as engines expect an output."""
        values = self.read(logits.flatten(0, 1), here)
        whole = values.new_zeros(len(here.tokens.labels), values.shape[-1])
        whole[here.chosen] = values
        group = layout.sequence_group(self.strategy)
        if group is not None:  # each token's logits are on one of its ranks
            dist.all_reduce(whole, group=group)
        counts = [int(row.sum()) for row in here.data["response_mask"].unbind()]
        rows = here.data[ROW_NUMBER].tolist()
        self.found.update(zip(rows, torch.split(whole.cpu(), counts), strict=True))
        return torch.zeros(logits.shape[:2], device=logits.device)


def infer_with(actor: Any, data: TensorDict, processor: Any) -> TensorDict | None:
    """The actor's ``infer_batch`` with a function at its logits; it has its own loss afterwards.

    Args:
        actor: verl's ``TrainingWorker``.
        data: as for ``infer_batch``.
        processor: called as verl calls a distillation loss.

    Returns:
        What ``infer_batch`` does; None on ranks without outputs.
    """
    tu.assign_non_tensor(data, compute_loss=True, **FLAGS)
    loss = actor.loss_fn
    actor.set_loss_fn(processor)
    try:
        output: TensorDict | None = actor.infer_batch(data)
        return output
    finally:
        actor.set_loss_fn(loss)


def read_logits(
    actor: Any, data: TensorDict, strategy: str, read: Callable[[Tensor, Here], Tensor]
) -> dict[int, Tensor]:
    """What is read of the logits of each row's sampled tokens.

    Args:
        actor: verl's ``TrainingWorker``.
        data: with ``ROW_NUMBER``, (rows,) distinct numbers.
        strategy: of the engine.
        read: see :class:`Reader`.

    Returns:
        Number of a row -> (sampled tokens, K) on the CPU; empty on ranks without logits.
    """
    reader = Reader(strategy, read)
    infer_with(actor, data, reader)
    return reader.found
