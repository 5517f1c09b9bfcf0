"""Pure advantage function -> estimator in verl's registry."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.names import TRAINER_MODES
from verl_ext.adapters.sessions import Sessions
from verl_ext.catalog import ADVANTAGES, MIXERS

# What verl itself hands to an estimator -> the name our functions use for it.
BATCH_FIELDS = {"index": "group_ids"}


@dataclass(frozen=True)
class BatchContext:
    """What our trainers know of a batch and verl's estimator call does not carry.

    Attributes:
        sessions: which rows stand for which session.
        sampled: (rows, time), the response mask before verl's rollout correction took tokens out.
        fields: per row, by our names, what the estimator declared in the catalog.
    """

    sessions: Sessions
    sampled: Tensor
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)


_CONTEXT: ContextVar[BatchContext | None] = ContextVar("verl_ext_batch", default=None)


@contextmanager
def batch_context(context: BatchContext | None) -> Iterator[None]:
    """Lets the estimators called inside see the batch as our trainers do."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def declared_fields(estimator: str) -> tuple[str, ...]:
    """The fields beyond verl's own that an estimator asks our trainers for."""
    entry = (ADVANTAGES | MIXERS).get(estimator)
    return tuple(name for name in entry.needs if name not in BATCH_FIELDS.values()) if entry else ()


def register(core_algos: Any) -> None:
    """Registers every estimator of the catalog under its prefixed name."""
    for name, entry in ADVANTAGES.items():
        core_algos.register_adv_est(name)(as_verl_estimator(entry.function, declared_fields(name)))
    for name in MIXERS:
        core_algos.register_adv_est(name)(_no_task(name))


def _no_task(name: str) -> Callable[..., Any]:
    """What verl calls for a mixing estimator without a task's: the task says nothing."""

    def estimator(token_level_rewards: Tensor, response_mask: Tensor, **_: Any) -> Any:
        if _CONTEXT.get() is None:
            _refuse_without_fields(name, declared_fields(name))
        nothing = torch.zeros_like(token_level_rewards)
        return nothing, nothing

    return estimator


def as_verl_estimator(
    function: Callable[..., Any], declared: Sequence[str] = ()
) -> Callable[..., Any]:
    """Wraps a pure function into verl's calling convention.

    The subtree ``algorithm.verl_ext.advantage`` *is* the function's keyword arguments, so Python
    itself refuses an unknown one.

    Under our trainers the function sees one row per session, that of its last output, and verl's
    padding rows not at all. What it gives that row's first sampled token goes to every sampled
    token of the session, as verl does for GRPO. Tokens that verl's rollout correction rejects are
    out of the loss, not out of the statistics, as there.
    """
    wanted = set(inspect.signature(function).parameters)
    first = first_argument(function)

    @functools.wraps(function)
    def estimator(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        config: Mapping[str, Any] | None = None,
        **batch: Any,
    ) -> Any:
        settings = ((config or {}).get("verl_ext") or {}).get("advantage") or {}
        fields = {
            ours: batch[theirs]
            for theirs, ours in BATCH_FIELDS.items()
            if ours in wanted and theirs in batch
        }
        context = _CONTEXT.get()
        if context is None:
            _refuse_without_fields(f"verl_ext.{function.__name__}", declared)
            rewards = first(onto_sampled_tokens(token_level_rewards, response_mask))
            return function(rewards, response_mask, **fields, **settings)
        fields |= {name: context.fields[name] for name in declared}
        last = context.sessions.last
        of_last = {name: [values[row] for row in last.tolist()] for name, values in fields.items()}
        sampled = context.sampled[last]
        rewards = first(onto_sampled_tokens(token_level_rewards[last], sampled))
        results = function(rewards, sampled, **of_last, **settings)
        return tuple(_on_every_output(result, response_mask, context) for result in results)

    return estimator


def first_argument(function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """How (rows, time) rewards are handed to a function: as they are, or one number a response.

    Args:
        function: an advantage function; where it names its first argument ``rewards``, it is one.
    """
    name = next(iter(inspect.signature(function).parameters))
    return (lambda rewards: rewards.sum(-1)) if name == "rewards" else (lambda rewards: rewards)


def _refuse_without_fields(name: str, declared: Sequence[str]) -> None:
    if declared:
        raise SettingsError(
            f"'{name}' needs {', '.join(declared)} of each row, which verl's stock "
            f"trainers do not fetch. Add: trainer.v1.trainer_mode={TRAINER_MODES[0]}"
        )


def _on_every_output(
    of_last: Float[Tensor, "sessions time"],
    response_mask: Shaped[Tensor, "rows time"],
    context: BatchContext,
) -> Float[Tensor, "rows time"]:
    """A session's score, read at the first sampled token, on all tokens that are in the loss."""
    first = context.sampled[context.sessions.last].int().argmax(-1, keepdim=True)
    scores = context.sessions.broadcast(of_last.gather(1, first).squeeze(1))
    return torch.where(response_mask.bool(), scores.unsqueeze(-1), 0)


def onto_sampled_tokens(
    token_level_rewards: Float[Tensor, "batch time"], response_mask: Shaped[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Moves rewards that stand on masked tokens to the row's last sampled token.

    verl puts the score on the last token of a response. When a multi-turn response is cut inside a
    tool's answer that token is masked, and a masked sum would turn a solved task into a failed one.
    Rows without any sampled token (verl's padding) keep their zeros.
    """
    sampled = response_mask.bool()
    stranded = torch.where(sampled, 0, token_level_rewards).sum(-1)
    if not torch.any(stranded != 0):
        return token_level_rewards
    positions = torch.arange(sampled.shape[-1], device=sampled.device)
    last = torch.where(sampled, positions, -1).amax(-1)
    rewards = torch.where(sampled, token_level_rewards, 0)
    rows = torch.nonzero(last >= 0).squeeze(-1)
    rewards[rows, last[rows]] += stranded[rows]
    return rewards
