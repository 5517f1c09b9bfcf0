"""A policy's own teacher on the tokens that the policy finds likely: two passes, one result.

Student and teacher read different prompts, so their logits never lie side by side: one pass over
what the student read leaves the ids of its K most likely tokens, one over what the teacher reads
the teacher's log-probs of them. What the loss then needs of the teacher is in the batch.
"""

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu

from verl_ext.adapters.teacher.logits import ROW_NUMBER, MostLikely, read_logits
from verl_ext.adapters.teacher.loss import SUPPORT_IDS, SUPPORT_LOG_PROBS
from verl_ext.adapters.teacher.own import OwnTeacher
from verl_ext.losses.chunks import arithmetic
from verl_ext.tensor_ops import finite_or

TEACHER_PROMPT = "verl_ext_teacher_prompt"  # token ids; a single one where a row has no teacher
REPLACED = "verl_ext_support_replaced"  # of a row's log-probs, how many were not finite
# What the passes ask of a batch.
FIELDS = (
    "input_ids", "position_ids", "prompts", "responses", "response_mask", "loss_mask",
    TEACHER_PROMPT,
)  # fmt: skip


def teacher_on_support(
    actor: Any, teacher: OwnTeacher, data: TensorDict, *, top_k: int, strategy: str, floor: float
) -> TensorDict | None:
    """The student's K most likely tokens at each sampled token, and the teacher's log-probs.

    Args:
        actor: verl's ``TrainingWorker``.
        teacher: beside it.
        data: ``FIELDS``, jagged.
        top_k: K.
        strategy: of the engine.
        floor: nats, what stands for a log-prob that is not finite.

    Returns:
        ``SUPPORT_IDS`` and ``SUPPORT_LOG_PROBS``, jagged (rows, response tokens, K), and
        ``REPLACED`` (rows, 1). Where nothing is taught K distinct ids of one small probability.
        Log-probs are float64 if the engine's are, else float32.
        None on ranks without outputs.
    """
    prompts, responses = data["prompts"].unbind(), data["responses"].unbind()
    taught = [len(prompt) > 1 for prompt in data[TEACHER_PROMPT].unbind()]
    masks = [
        mask if has else torch.zeros_like(mask)
        for mask, has in zip(data["response_mask"].unbind(), taught, strict=True)
    ]
    ids = read_logits(
        actor, _readings(data, prompts, responses, masks, taught), strategy, MostLikely(top_k)
    )
    theirs = _readings(data, data[TEACHER_PROMPT].unbind(), responses, masks, taught)
    log_probs = teacher.log_probs_at(theirs, ids)
    if not actor.engine.is_mp_src_rank_with_outputs():
        return None
    placed = [
        _placed(mask.cpu().bool(), ids[row], log_probs[row], floor)
        for row, mask in enumerate(masks)
    ]
    columns = [list(column) for column in zip(*placed, strict=True)]
    return tu.get_tensordict(
        {
            SUPPORT_IDS: torch.nested.as_nested_tensor(columns[0], layout=torch.jagged),
            SUPPORT_LOG_PROBS: torch.nested.as_nested_tensor(columns[1], layout=torch.jagged),
            REPLACED: torch.stack(columns[2]).unsqueeze(-1),
        },
        {},
    )


def _readings(
    data: TensorDict,
    prompts: tuple[Tensor, ...],
    responses: tuple[Tensor, ...],
    masks: list[Tensor],
    taught: list[bool],
) -> TensorDict:
    """The batch with other prompts; of rows without a teacher two tokens are left."""
    columns: dict[str, list[Tensor]] = {name: [] for name in FIELDS if name != TEACHER_PROMPT}
    for prompt, response, mask, has in zip(prompts, responses, masks, taught, strict=True):
        if not has:
            prompt, response, mask = prompt[:1], response[:1], mask[:1]
        row = torch.cat([prompt, response])
        for name, value in (
            ("input_ids", row),
            ("position_ids", torch.arange(len(row), device=row.device)),
            ("prompts", prompt),
            ("responses", response),
            ("response_mask", mask),
            ("loss_mask", mask),
        ):
            columns[name].append(value)
    nested = {
        name: torch.nested.as_nested_tensor(values, layout=torch.jagged)
        for name, values in columns.items()
    }
    read = data.exclude(TEACHER_PROMPT)
    for name, value in nested.items():
        read[name] = value
    read[ROW_NUMBER] = torch.arange(len(data), device=data["prompts"].device)
    return read


def _placed(
    mask: Tensor, ids: Tensor, log_probs: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A row's sampled tokens among all of its response's."""
    top_k = ids.shape[-1]
    finite, replaced = finite_or(log_probs.to(arithmetic(log_probs.dtype)), floor)
    whole_ids = torch.arange(top_k, dtype=torch.int32).repeat(len(mask), 1)
    whole = torch.full((len(mask), top_k), floor, dtype=finite.dtype)
    whole_ids[mask] = ids.int()
    whole[mask] = finite
    return whole_ids, whole, replaced.sum()
