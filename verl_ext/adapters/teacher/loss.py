"""The one place where policy-gradient and distillation terms meet: the actor's loss function.

verl calls it twice for each micro-batch: with the logits, while they exist, and with what came of
them. The log-probs come from our kernel as well, since verl's own computation of them overwrites
the logits on some back-ends, and the backward pass of the divergence still needs them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from verl_ext.adapters.teacher import layout
from verl_ext.adapters.teacher.settings import Divergence
from verl_ext.losses.token_terms import TeacherLogits, TeacherTopK, TokenTerms, token_terms

# Output of the engine -> name of the metric; the first is the loss.
DIVERGENCE = "verl_ext_divergence"
STATISTICS = {
    "verl_ext_student_tail": "student_tail",
    "verl_ext_teacher_tail": "teacher_tail",
    "verl_ext_overlap": "top_k_overlap",
}
# What the worker asks of verl's engine: call the loss with the logits, and compute no log-probs.
FLAGS = {"distillation_use_topk": True, "distillation_only": True}


@dataclass(frozen=True)
class DistillationLoss:
    """verl's policy loss plus a divergence from the teacher's distribution.

    Attributes:
        config: verl's ``ActorConfig``.
        settings: of the divergence.
        teacher_logits: the reference teacher's logits of a micro-batch, laid out as the student's;
            None if the micro-batch brings a server's top-k.
    """

    config: Any
    settings: Divergence
    teacher_logits: Callable[[TensorDict], Tensor] | None = None

    def __call__(
        self,
        model_output: dict[str, Tensor] | None = None,
        data: TensorDict | None = None,
        dp_group: Any = None,
        student_logits: Tensor | None = None,
        data_format: str = "thd",
    ) -> Any:
        """verl's two calling conventions; see its ``distillation_ppo_loss``."""
        assert data is not None
        if student_logits is not None:
            return self.outputs(student_logits, data, data_format)
        assert model_output is not None
        return self.loss(model_output, data, dp_group)

    def outputs(
        self, student_logits: Tensor, data: TensorDict, data_format: str
    ) -> dict[str, Tensor]:
        """Log-probs, divergence and statistics of each token, 0 outside the response mask.

        Args:
            student_logits: (1, tokens, vocabulary) or (rows, time, vocabulary), this rank's share.
            data: the micro-batch, jagged.
            data_format: of Megatron, ``"thd"`` or ``"bshd"``.
        """
        tokens = layout.sampled_tokens(data)
        shape = student_logits.shape[:2]
        slots = layout.on_this_rank(tokens.slots, self.config.strategy, data_format).flatten()
        rows = slots.nonzero().squeeze(-1)
        chosen = slots[rows] - 1
        logits = student_logits.flatten(0, 1)
        teacher = self._teacher(data, tokens.positions[chosen], logits.shape[-1])
        terms: TokenTerms = token_terms(
            logits,
            tokens.labels[chosen],
            teacher,
            rows=rows,
            vocab=layout.vocabulary_shard(self.config.strategy, logits.shape[-1]),
            **self.settings.arguments,
        )
        assert terms.log_probs is not None
        values = {
            "log_probs": terms.log_probs,
            DIVERGENCE: terms.divergence,
            "verl_ext_student_tail": terms.student_tail,
            "verl_ext_teacher_tail": terms.teacher_tail,
        }
        if self.settings.top_k is not None:
            values["verl_ext_overlap"] = terms.overlap
        return {
            name: torch.zeros(slots.shape, dtype=value.dtype, device=value.device)
            .index_put((rows,), value)
            .view(shape)
            for name, value in values.items()
        }

    def _teacher(
        self, data: TensorDict, positions: Tensor, width: int
    ) -> TeacherLogits | TeacherTopK:
        if self.teacher_logits is None:
            ids, log_probs = data["teacher_ids"].values(), data["teacher_logprobs"].values()
            return TeacherTopK(ids[positions], log_probs[positions].float())
        logits = self.teacher_logits(data).flatten(0, 1)
        return TeacherLogits(layout.of_width(logits, width, self.config.strategy))

    def loss(
        self, model_output: dict[str, Tensor], data: TensorDict, dp_group: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """verl's policy loss, and the divergence averaged as its other terms are."""
        loss, metrics = ppo_loss(self.config, model_output, data, dp_group)
        mask = data["response_mask"]
        mask = (mask.to_padded_tensor(0) if mask.is_nested else mask).bool()
        sizes = self.config.global_batch_info

        def mean(name: str, mode: str) -> Tensor:
            per_token = no_padding_2_padding(model_output[name], data)
            value: Tensor = agg_loss(
                loss_mat=per_token, loss_mask=mask, loss_agg_mode=mode, **sizes
            )
            return value

        term = mean(DIVERGENCE, self.config.loss_agg_mode)
        loss = loss + self.settings.coef * term
        metrics["verl_ext/divergence/loss"] = Metric(AggregationType.SUM, term.detach())
        for name, what in STATISTICS.items():
            if name in model_output:
                value = mean(name, "token-mean").detach()
                metrics[f"verl_ext/divergence/{what}"] = Metric(AggregationType.SUM, value)
        return loss, metrics
