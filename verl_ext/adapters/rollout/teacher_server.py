"""Teacher servers, asked during rollout: what comes back is finite, and a failure has a name.

verl asks a teacher for each response as soon as it is sampled. Where that fails, the response is
missing from the batch and nothing else is said: with one of two teachers gone, training goes on
with the other's tasks alone. Here a failure stops the run, or marks the row for the trainer.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from omegaconf import DictConfig
from ray.exceptions import RayError
from torch import Tensor

from verl_ext.adapters.rollout.stopping import in_words, stop
from verl_ext.adapters.teacher.settings import Teacher, plan
from verl_ext.tensor_ops import finite_or

KEY = "algorithm.verl_ext.teacher"
REPORT = "verl_ext_teacher"  # in a row's extra_fields
# A server that died, hangs, refuses a request, or answers with something else than log-probs:
# verl takes "prompt_ids" out of the answer, makes tensors of its lists and asserts their lengths.
FAILURES = (
    RayError,
    asyncio.TimeoutError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    AssertionError,
)


class TeacherError(RuntimeError):
    """A teacher server that failed, or a row that has none."""


@dataclass(frozen=True)
class Report:
    """What the trainer is told of a row, as a dictionary in its ``extra_fields``.

    Attributes:
        teacher: its key in ``distillation.teacher_models``; ``"default"`` if there is but one.
        tokens: of the response.
        non_finite: how many of them had a log-prob that is NaN or infinite.
        failure: empty, or what went wrong; the row's log-probs are then zeros.
    """

    teacher: str
    tokens: int
    non_finite: int = 0
    failure: str = ""


def rules(config: DictConfig) -> Teacher:
    """The section ``teacher``, or its defaults where a run has teacher servers and none of it."""
    return plan(config).teacher or Teacher("server")


class TeacherGuard:
    """Mixed in before an agent-loop worker of verl's."""

    config: DictConfig
    distillation_enabled: bool
    teacher_key: str
    teacher_server_manager: Any

    @cached_property
    def _ext_teacher_rule(self) -> Teacher:
        return rules(self.config)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        """verl asks for a session's last output alone; a field that one row lacks, all lose."""
        earlier = output[:-1] if isinstance(output, list) else []
        for item in earlier:
            await self._compute_teacher_logprobs(
                item, item.prompt_ids, item.response_ids, validate, kwargs
            )
        await super()._agent_loop_postprocess(output, validate, **kwargs)  # type: ignore[misc]

    async def _compute_teacher_logprobs(
        self,
        output: Any,
        prompt_ids: list[int],
        response_ids: list[int],
        validate: bool,
        sample_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """As verl's, with a limit of time; adds a :class:`Report`.

        Raises:
            TeacherError: the row has no teacher, or it failed and ``on_teacher_failure=stop``; the
                trainer is told before.
        """
        if validate or not self.distillation_enabled:
            return
        rule = self._ext_teacher_rule
        teacher = await self._ext_teacher_of(sample_kwargs or {})
        try:
            await asyncio.wait_for(
                super()._compute_teacher_logprobs(  # type: ignore[misc]
                    output, prompt_ids, response_ids, validate, sample_kwargs
                ),
                rule.timeout_s,
            )
        except FAILURES as error:
            failure = in_words(error, f"no answer within {rule.timeout_s:g} s ({KEY}.timeout_s)")
            if rule.on_teacher_failure == "stop":
                await stop(TeacherError(self._ext_failed(teacher, failure)), error)
            fields = self._ext_no_log_probs(len(prompt_ids) + len(response_ids))
            output.extra_fields.update(fields)
            report = Report(teacher, len(response_ids), failure=failure)
        else:
            log_probs = output.extra_fields["teacher_logprobs"]  # vLLM: -inf where never sampled
            values, replaced = finite_or(log_probs, rule.log_prob_floor)
            broken = replaced.any(-1)
            output.extra_fields["teacher_logprobs"] = values
            # Entry i is about token i + 1: the response's first token is told by the last prompt's.
            of_response = broken[len(prompt_ids) - 1 : len(prompt_ids) + len(response_ids) - 1]
            report = Report(teacher, len(response_ids), int(of_response.sum()))
        output.extra_fields[REPORT] = asdict(report)

    async def _ext_teacher_of(self, row: Mapping[str, Any]) -> str:
        value: Any = row.get(self.teacher_key)
        label = value.item() if hasattr(value, "item") else value
        try:
            return str(self.teacher_server_manager._resolve_teacher_key(label))
        except ValueError as error:
            message = (
                f"no teacher for {self.teacher_key}={label!r}: "
                f"distillation.teacher_models has {', '.join(self._ext_models())}"
            )
            await stop(TeacherError(message), error)

    def _ext_failed(self, teacher: str, failure: str) -> str:
        return (
            f"teacher {teacher!r} ({self._ext_models()[teacher].model_path}) failed: {failure}. "
            f"To go on without its rows, add: {KEY}.on_teacher_failure=drop"
        )

    def _ext_models(self) -> Mapping[str, Any]:
        models: Mapping[str, Any] = self.teacher_server_manager.teacher_model_configs
        return models

    def _ext_no_log_probs(self, length: int) -> dict[str, Tensor]:
        """Fields in the shape of the teacher's, (length, width), so that the batch keeps them."""
        loss = self.teacher_server_manager.distillation_loss_config
        width = loss.topk if loss.loss_settings.use_topk else 1
        return {
            "teacher_ids": torch.zeros(length, width, dtype=torch.int32),
            "teacher_logprobs": torch.zeros(length, width),
        }
