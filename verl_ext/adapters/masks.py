"""The masks of ``algorithm.verl_ext.masks``, applied after the advantage in the order written."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from inspect import isclass
from typing import Any

import torch
from torch import Tensor

from verl_ext.adapters.errors import SettingsError
from verl_ext.catalog import MASKS
from verl_ext.masks.denominator import loss_inputs


@dataclass(frozen=True)
class Masked:
    """What the masks leave of a batch.

    Attributes:
        advantages: (sessions, time), 0 where withheld.
        counted: bool (sessions, time), the tokens over which the loss is averaged.
        withheld: whether a mask withheld anything.
        teaches: whether any token still has an advantage, or nothing was withheld.
        metrics: for each mask the share of the tokens it saw that it kept, and its own.
        news: what a person should read, a line each.
    """

    advantages: Tensor
    counted: Tensor
    withheld: bool
    teaches: bool
    metrics: dict[str, float]
    news: list[str]


class MaskChain:
    """Masks one after the other: each sees advantages of 0 where those before it withheld.

    A mask is a function (its tokens leave the denominator too) or an object with a ``denominator``,
    and, if it has them, ``metrics``, ``news``, ``state_dict`` and ``load_state_dict``; ``needs``,
    where its settings decide what it needs of the catalog's; ``per_task``, settings with a value
    for each task of the data, by name; ``watches``, how many updates or steps it lets pass before
    it can withhold anything; ``end_step(step)``, which is called once a step, however many updates
    that has; and ``resamples``, true where it acts before the batch is made and is not part of the
    chain.

    Args:
        settings: name -> keyword arguments, in the order of the configuration.

    Attributes:
        masks: all of them, by name.
        needs: the fields that those of the chain take.
    """

    def __init__(self, settings: Mapping[str, Any] | None) -> None:
        self.masks: dict[str, Any] = {
            name: _built(MASKS[name].function, arguments or {})
            for name, arguments in (settings or {}).items()
        }
        self.needs = sorted({field for name in self.chain for field in self._needs(name)})

    @property
    def chain(self) -> dict[str, Any]:
        """The masks that are applied to a batch."""
        return {name: m for name, m in self.masks.items() if not getattr(m, "resamples", False)}

    @property
    def resampler(self) -> Any | None:
        """The mask that is to act before a batch is made; None if there is none."""
        return next((m for m in self.masks.values() if getattr(m, "resamples", False)), None)

    def _needs(self, name: str) -> tuple[str, ...]:
        return tuple(getattr(self.masks[name], "needs", MASKS[name].needs))

    def __bool__(self) -> bool:
        return bool(self.chain)

    def __call__(
        self, advantages: Tensor, response_mask: Tensor, fields: Mapping[str, Any]
    ) -> Masked:
        """Applies the masks.

        Args:
            advantages: (sessions, time).
            response_mask: (sessions, time), 1 = sampled token.
            fields: what :attr:`needs` names: (sessions, time), or one number or label a session.
        """
        sampled = response_mask.bool()
        learning, counted = sampled, sampled
        metrics: dict[str, float] = {}
        news = []
        for name, mask in self.chain.items():
            wanted = {field: fields[field] for field in self._needs(name)}
            keep = mask(torch.where(learning, advantages, 0), sampled, **wanted)
            denominator = getattr(mask, "denominator", "kept")
            _, left = loss_inputs(advantages, learning, keep, denominator=denominator)
            # What an earlier mask withheld keeps the place that mask gave it.
            counted = counted & (left | ~learning)
            seen = int(learning.sum())
            learning = learning & keep
            own = {"kept_share": int(learning.sum()) / seen if seen else 0.0}
            own |= getattr(mask, "metrics", {})
            metrics |= {f"verl_ext/{name}/{what}": value for what, value in own.items()}
            if getattr(mask, "news", ""):
                news.append(f"{name}: {mask.news}")
        left_over = torch.where(learning, advantages, 0)
        withheld = not torch.equal(learning, sampled)
        teaches = bool(left_over.any()) or not withheld
        return Masked(left_over, counted, withheld, teaches, metrics, news)

    def end_step(self, step: int) -> tuple[dict[str, float], list[str]]:
        """Tells every mask that wants to know that the trainer's step is over.

        Returns:
            Their metrics, and what a person should read, a line each.
        """
        metrics: dict[str, float] = {}
        news = []
        for name, mask in self.masks.items():
            if hasattr(mask, "end_step"):
                mask.end_step(step)
                metrics |= {
                    f"verl_ext/{name}/{what}": value for what, value in mask.metrics.items()
                }
                news += [f"{name}: {mask.news}"] if mask.news else []
        return metrics, news

    def state_dict(self) -> dict[str, Any]:
        """State of each mask that has one."""
        return {
            name: mask.state_dict()
            for name, mask in self.masks.items()
            if hasattr(mask, "state_dict")
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Restores each mask that the state knows.

        Returns:
            Names of the masks that start anew: the checkpoint was saved without them.

        Raises:
            SettingsError: a mask's state is not one that its settings can take up.
        """
        anew = []
        for name, mask in self.masks.items():
            if name in state:
                try:
                    mask.load_state_dict(state[name])
                except ValueError as error:
                    raise SettingsError(
                        f"algorithm.verl_ext.masks.{name}: the checkpoint was saved with other "
                        f"settings of it: {error}. Resume with those (thresholds found by "
                        "calibration are in the checkpoint and need no pinning), or start anew: "
                        "trainer.resume_mode=disable"
                    ) from error
            elif hasattr(mask, "state_dict"):
                anew.append(name)
        return anew


def _built(function: Any, arguments: Mapping[str, Any]) -> Any:
    return function(**arguments) if isclass(function) else partial(function, **arguments)


def rows_to_train(counted: Tensor, lengths: list[int], multiple: int) -> list[int]:
    """Rows for the update: all that count, and the shortest others to fill the last mini-batch.

    Packing the rows that count means that no mini-batch is without any (its token mean would be
    0/0) and that the number of updates follows the amount of data, as when the other rows had been
    removed.

    Args:
        counted: bool (rows, time), the tokens over which the loss is averaged.
        lengths: tokens of each row, prompt included: what a filler row costs.
        multiple: rows of one mini-batch.

    Returns:
        Row numbers, ascending; their count is a multiple of ``multiple``.
    """
    counts = counted.any(-1)
    rows = torch.nonzero(counts).squeeze(-1).tolist()
    idle = sorted(torch.nonzero(~counts).squeeze(-1).tolist(), key=lambda row: lengths[row])
    missing = -len(rows) % multiple
    return sorted(rows + idle[:missing])
