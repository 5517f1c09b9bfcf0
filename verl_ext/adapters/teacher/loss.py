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
from verl_ext.losses.chunks import arithmetic
from verl_ext.losses.importance import clipped_importance_ratio
from verl_ext.losses.token_terms import (
    TeacherLogits,
    TeacherOnStudentTopK,
    TeacherTopK,
    TokenTerms,
    token_terms,
)

# Output of the engine -> name of the metric; the first is the loss.
DIVERGENCE = "verl_ext_divergence"
STATISTICS = {
    "verl_ext_student_tail": "student_tail",
    "verl_ext_teacher_tail": "teacher_tail",
    "verl_ext_overlap": "top_k_overlap",
}
# In the batch if the policy's own teacher was asked beforehand: about which tokens, what it said of
# them, and where in the responses.
SUPPORT_IDS = "verl_ext_support_ids"
SUPPORT_LOG_PROBS = "verl_ext_support_log_probs"
TAUGHT = "verl_ext_taught"
# What the worker asks of verl's engine: call the loss with the logits, and compute no log-probs.
FLAGS = {"distillation_use_topk": True, "distillation_only": True}


@dataclass(frozen=True)
class DistillationLoss:
    """verl's policy loss plus a divergence from the teacher's distribution.

    Attributes:
        config: verl's ``ActorConfig``.
        settings: of the divergence.
        teacher_logits: the reference teacher's logits of a micro-batch, laid out as the student's;
            None if the micro-batch brings a server's top-k, or an own teacher's log-probs.
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
        here = layout.Here.find(student_logits, data, self.config.strategy, data_format)
        logits = student_logits.flatten(0, 1)
        terms: TokenTerms = token_terms(
            logits,
            here.tokens.labels[here.chosen],
            self._teacher(here, logits.shape[-1]),
            rows=here.rows,
            vocab=here.vocab,
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
        shape = student_logits.shape[:2]
        return {name: here.laid_out(value, shape) for name, value in values.items()}

    def _teacher(
        self, here: layout.Here, width: int
    ) -> TeacherLogits | TeacherTopK | TeacherOnStudentTopK:
        data = here.data
        if self.teacher_logits is not None:
            logits = self.teacher_logits(data).flatten(0, 1)
            return TeacherLogits(layout.of_width(logits, width, self.config.strategy))
        if SUPPORT_IDS in data:
            places = here.tokens.places[here.chosen]
            ids, log_probs = data[SUPPORT_IDS].values(), data[SUPPORT_LOG_PROBS].values()
            return TeacherOnStudentTopK(ids[places], log_probs[places])
        positions = here.tokens.positions[here.chosen]
        ids, log_probs = data["teacher_ids"].values(), data["teacher_logprobs"].values()
        return TeacherTopK(ids[positions], log_probs[positions].to(arithmetic(log_probs.dtype)))

    def loss(
        self, model_output: dict[str, Tensor], data: TensorDict, dp_group: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """verl's policy loss, and the divergence averaged as its other terms are."""
        loss, metrics = ppo_loss(self.config, model_output, data, dp_group)
        mask = _padded(data["response_mask"]).bool()
        taught = mask & _padded(data[TAUGHT]).bool() if TAUGHT in data else mask

        def mean(per_token: Tensor, mode: str) -> Tensor:
            value: Tensor = agg_loss(
                loss_mat=torch.where(taught, per_token, 0),
                loss_mask=mask,
                loss_agg_mode=mode,
                **self.config.global_batch_info,
            )
            return value

        values = no_padding_2_padding(model_output[DIVERGENCE], data)
        weighted = values * self._weights(model_output, data)
        if self.settings.normalisation == "micro_batch_mean":
            term = self._mean_of_micro_batch(weighted, taught)
        else:
            term = mean(weighted, self.config.loss_agg_mode)
        loss = loss + self.settings.coef * term
        seen = {"value": values} | {
            what: no_padding_2_padding(model_output[name], data)
            for name, what in STATISTICS.items()
            if name in model_output
        }
        report = {what: mean(value.detach(), "token-mean") for what, value in seen.items()}
        for what, value in ({"loss": term.detach()} | report).items():
            metrics[f"verl_ext/divergence/{what}"] = Metric(AggregationType.SUM, value)
        return loss, metrics

    def _weights(self, model_output: dict[str, Tensor], data: TensorDict) -> Tensor:
        """(rows, time), or one number: of each token's divergence."""
        weights = torch.ones(())
        if "rollout_is_weights" in data:
            weights = _padded(data["rollout_is_weights"])
        if self.settings.importance_clip is None:
            return weights
        log_probs = no_padding_2_padding(model_output["log_probs"], data)
        old = _padded(data["old_log_probs"])
        return weights * clipped_importance_ratio(
            log_probs, old.to(log_probs.dtype), clip=self.settings.importance_clip
        )

    def _mean_of_micro_batch(self, values: Tensor, mask: Tensor) -> Tensor:
        """The mean over the micro-batch's own tokens, weighted by its share of the rows."""
        sizes = self.config.global_batch_info
        mean = torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)
        share: float = len(values) * sizes["dp_size"] / sizes["global_batch_size"]
        return mean * share


def _padded(values: Tensor) -> Tensor:
    padded: Tensor = values.to_padded_tensor(0) if values.is_nested else values
    return padded
