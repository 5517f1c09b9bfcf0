"""A policy that teaches itself: prompts with hints, and the forward pass over them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transfer_queue import KVBatchMeta

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.sessions import session_number, sessions
from verl_ext.adapters.teacher import own_check
from verl_ext.adapters.teacher.lessons import Lesson, Lessons, Row, feedback_of
from verl_ext.adapters.teacher.rendering import Renderer
from verl_ext.adapters.teacher.settings import Plan, Teacher
from verl_ext.adapters.teacher.workers import TEACHER_LOG_PROBS
from verl_ext.adapters.trainer.scratch import Reading, response_log_probs
from verl_ext.adapters.trainer.stage import Stage
from verl_ext.self_teaching.prompt import prompt_shares
from verl_ext.tensor_ops import finite_or

FIELDS = (
    "uid", "rm_scores", "raw_prompt", "prompts", "responses", "response_mask", "extra_fields",
)  # fmt: skip
METRIC = "verl_ext/teacher"


class SelfTeaching(Stage):
    """What ``algorithm.verl_ext.teacher.source`` ``self``, ``ema`` and ``trust_region`` ask."""

    ext_plan: Plan
    tokenizer: Any
    processor: Any
    _ext_lesson_keys: list[str] | None = None
    _ext_known_lessons: dict[int, Lesson]
    _ext_seconds: float | None = None

    @property
    def ext_own_teacher(self) -> Teacher | None:
        """None where another model teaches, or nobody, or nothing is asked of the teacher."""
        teacher, wanted = self.ext_plan.teacher, self.ext_plan
        asked = wanted.needs_log_probs or wanted.divergence is not None
        return teacher if teacher is not None and teacher.is_own and asked else None

    @cached_property
    def ext_make_lessons(self) -> Lessons:
        """The maker of teacher prompts."""
        teacher = self.ext_own_teacher
        assert teacher is not None
        assert teacher.max_prompt_length is not None
        return Lessons(
            Renderer(self.config, self.tokenizer, self.processor),
            own_check.rules(teacher),
            own_check.texts(teacher),
            teacher.max_prompt_length,
        )

    def ext_dropped_rows(self, batch: KVBatchMeta) -> Tensor | None:
        """Adds, where the teacher speaks alone, the rows of which it says nothing."""
        dropped = super().ext_dropped_rows(batch)
        mix = self.ext_plan.mix
        alone = mix is not None and not mix.task_speaks
        if self.ext_own_teacher is None or not alone:
            return dropped
        taught = self._ext_taught_rows(batch)
        divergence = self.ext_plan.divergence
        if divergence and divergence.normalisation == "micro_batch_mean" and any(taught):
            return dropped  # the number of rows is the denominator, and these are among them
        silent = torch.tensor(
            [
                not (tag.get("is_padding", False) or has)
                for tag, has in zip(batch.tags, taught, strict=True)
            ]
        )
        return silent if dropped is None else silent | dropped

    def ext_taught_tokens(self, batch: KVBatchMeta, mask: Tensor) -> Tensor:
        """Without the rows that have no teacher prompt."""
        taught = super().ext_taught_tokens(batch, mask)
        if self.ext_own_teacher is None:
            return taught
        return taught & torch.tensor(self._ext_taught_rows(batch)).unsqueeze(-1)

    def _ext_taught_rows(self, batch: KVBatchMeta) -> list[bool]:
        lessons = self._ext_lessons(batch)
        return [row in lessons and bool(lessons[row].ids) for row in range(len(batch))]

    def _ext_lessons(self, batch: KVBatchMeta) -> dict[int, Lesson]:
        """The lesson of each row that is not padding, made once a batch."""
        if self._ext_lesson_keys != batch.keys:
            rows = self._ext_rows(batch)
            made = self.ext_make_lessons(list(rows.values()))
            self._ext_known_lessons = dict(zip(rows, made, strict=True))
            self._ext_lesson_keys = list(batch.keys)
        return self._ext_known_lessons

    def _ext_rows(self, batch: KVBatchMeta) -> dict[int, Row]:
        """What is known of each row that is not padding, by its number; as they were sampled."""
        found = sessions(batch.keys, batch.tags)
        if found.outputs.shape[-1] > 1:
            raise SettingsError(
                "algorithm.verl_ext.teacher: the agent loop cuts a session into several outputs, "
                "and a later one does not continue the data set's chat, which is what a teacher's "
                "prompt adds its hints to. Add: algorithm.verl_ext.teacher.source=ref "
                "algorithm.adv_estimator=verl_ext.opd, or an agent loop with one output a session"
            )
        try:
            data = self.ext_batch.get(batch, FIELDS)
        except KeyError as error:
            raise SettingsError(
                f"algorithm.verl_ext.teacher: the rows of the batch have no {error}. A data set or "
                "agent loop of one's own must hand on raw_prompt, and a reward must be there"
            ) from error
        numbers = [n for n, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        numbers.sort(key=lambda n: session_number(batch.keys[n]))
        columns = {name: rows_of(data[name]) for name in FIELDS}
        return {
            number: Row(
                group_id=str(columns["uid"][number]),
                score=columns["rm_scores"][number].sum().item(),
                response=self.tokenizer.decode(
                    columns["responses"][number].tolist(), skip_special_tokens=True
                ),
                chat=columns["raw_prompt"][number],
                prompt_ids=columns["prompts"][number].tolist(),
                feedback=feedback_of(columns["extra_fields"][number]),
            )
            for number in numbers
        }

    def _ext_teacher_log_probs(
        self, batch: KVBatchMeta, mask: Tensor, metrics: dict[str, Any]
    ) -> Tensor:
        """(rows, time): the teacher's, finite, 0 in rows that it does not judge."""
        teacher = self.ext_own_teacher
        if teacher is None:
            theirs: Tensor = super()._ext_teacher_log_probs(batch, mask, metrics)  # type: ignore[misc]
            return theirs
        taught = [row for row, has in enumerate(self._ext_taught_rows(batch)) if has]
        values = torch.zeros(mask.shape)
        if taught:
            with self.ext_asking():
                told = self._ext_ask(batch, taught, metrics)
            for row, said in zip(taught, told, strict=True):
                values[row, : len(said)] = said
        values, replaced = finite_or(values, teacher.log_prob_floor)
        heard = self.ext_taught_tokens(batch, mask)
        metrics[f"{METRIC}/non_finite"] = (
            (replaced & heard).sum() / heard.sum().clamp_min(1)
        ).item()
        return values

    def _ext_ask(
        self, batch: KVBatchMeta, taught: list[int], metrics: dict[str, Any]
    ) -> list[Tensor]:
        """The teacher's log-probs of the responses of some rows."""
        lessons = self._ext_lessons(batch)
        columns = {
            name: rows_of(values)
            for name, values in self.ext_batch.get(batch, ["responses", "response_mask"]).items()
        }
        readings = [
            Reading(
                torch.tensor(lessons[row].ids),
                columns["responses"][row],
                columns["response_mask"][row],
            )
            for row in taught
        ]
        metrics[f"{METRIC}/total_tokens"] = sum(map(len, readings))
        return response_log_probs(
            self.actor_rollout_wg.ext_teacher_log_prob,
            TEACHER_LOG_PROBS,
            readings,
            ranks=max(self.actor_rollout_wg._dispatch_info["actor"]) + 1,
            rows_multiple=rows_multiple(self.config.actor_rollout_ref),
            extra_info=self._ext_of_reading(),
        )

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's; says who is taught."""
        batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        if self.ext_own_teacher is None:
            return batch
        prompts = [lesson.prompt for lesson in self._ext_lessons(batch).values()]
        shares = prompt_shares(prompts)
        metrics.update({f"{METRIC}/prompt/{name}": share for name, share in shares.items()})
        if not any(self._ext_taught_rows(batch)):
            reasons = Counter(prompt.reason for prompt in prompts)
            why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            print(f"[verl_ext] step {self.global_steps}: no row has a teacher prompt ({why})")
        return batch

    def _ext_of_reading(self) -> dict[str, Any]:
        """What the workers are told of every forward pass of the teacher."""
        temperature = self.config.actor_rollout_ref.rollout.temperature
        return {"temperature": temperature, "calculate_entropy": False}

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """As verl's; adds how long the teacher took, which verl would average over the updates."""
        self._ext_seconds = None
        batch: KVBatchMeta = super().step(metrics, timing_raw)  # type: ignore[misc]
        if self._ext_seconds is not None:
            metrics[f"{METRIC}/seconds"] = self._ext_seconds
        return batch

    @contextmanager
    def ext_asking(self) -> Iterator[None]:
        """Takes the time that the teacher is asked for."""
        begun = perf_counter()
        yield
        self._ext_seconds = (self._ext_seconds or 0.0) + perf_counter() - begun


def rows_multiple(roles: Any) -> int:
    """What the rows of a data-parallel rank must be a multiple of in a forward pass.

    Args:
        roles: verl's section ``actor_rollout_ref``.
    """
    rows = 1
    if not roles.rollout.log_prob_use_dynamic_bsz:
        rows = int(roles.rollout.log_prob_micro_batch_size_per_gpu)
    if roles.actor.strategy == "megatron":
        megatron = roles.actor.megatron
        if megatron.virtual_pipeline_model_parallel_size:
            rows *= int(megatron.pipeline_model_parallel_size)  # micro-batches come in such groups
    return rows


def rows_of(values: Any) -> Any:
    """A column as one value per row."""
    return values.unbind() if isinstance(values, Tensor) else values
