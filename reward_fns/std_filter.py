"""Standard deviation filter: train on the prompts whose responses still differ in reward.

A prompt that is answered equally well every time, being too easy or too hard, has little to teach.
How much spread is little changes as the policy learns, so the threshold follows a moving average.

Source: Yu et al., "RLPR: Extrapolating RLVR to General Domains without Verifiers", 2025,
https://arxiv.org/abs/2506.18254, section 2; β, the warm-up and the multipliers are those of
https://github.com/OpenBMB/RLPR.
"""

import math
import statistics
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from verl_ext.tensor_ops import label_index, require_finite

_LARGEST_STD = 1e6
_KEYS = {"last_step", "warmup_means", "mean_std"}


class StdFilter:
    """Keeps the prompts whose rewards have a standard deviation of at least β times the usual.

        keep g  ⇔  β · m ≤ s_g ≤ 10⁶,    m ← d · m + (1 − d) · mean of s over the step's responses

    s_g is the unbiased (n − 1) standard deviation of prompt g's rewards. m starts as the mean of
    the warm-up steps' means; until then every prompt is kept.

    Args:
        beta: β ≥ 0, dimensionless (authors: 0.5 for Qwen, 0.9 for Llama, 1.0 for Gemma).
        decay: d in [0, 1], per step.
        warmup_from: first step whose mean counts; steps are numbered from 1.
        warmup_to: last step of the warm-up; the next one is the first that is filtered.
        task_multipliers: for each task what its prompts' s_g is multiplied by before it is compared
            with the threshold; m is not affected. Above 1 keeps more prompts of the task.

    Raises:
        ValueError: a parameter is outside its range.

    Degenerate: a prompt with one response has s = 1, and counts so in m. Equal rewards have s = 0
    exactly, and are kept only where the threshold is 0.

    Deviations: a reward that is NaN or infinite is refused; the authors' code leaves it out of m
    and filters its prompt, whatever made it so.
    """

    def __init__(
        self,
        beta: float = 0.5,
        decay: float = 0.99,
        warmup_from: int = 6,
        warmup_to: int = 10,
        task_multipliers: Mapping[Hashable, float] | None = None,
    ) -> None:
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be finite and >= 0, got {beta}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        if not 1 <= warmup_from <= warmup_to:
            raise ValueError(
                "warmup_from and warmup_to must be steps >= 1 in this order, got "
                f"warmup_from={warmup_from}, warmup_to={warmup_to}"
            )
        for task, multiplier in (task_multipliers or {}).items():
            if not 0 < multiplier < math.inf:
                raise ValueError(f"task_multipliers[{task!r}] must be > 0, got {multiplier}")
        self.beta, self.decay = beta, decay
        self.warmup_from, self.warmup_to = warmup_from, warmup_to
        self.task_multipliers = task_multipliers
        self._last_step = -1
        self._warmup_means: list[float] = []
        self._mean_std: float | None = None

    @property
    def threshold(self) -> float:
        """β · m, in units of the reward; 0.0 until the warm-up's last step has been observed."""
        return 0.0 if self._mean_std is None else self.beta * self._mean_std

    def keep(
        self,
        rewards: Float[Tensor, " batch"] | Collection[float],
        group_ids: Collection[Hashable],
        task_ids: Collection[Hashable] | None = None,
    ) -> dict[Hashable, bool]:
        """Which prompts to train on, by the threshold in force.

        Args:
            rewards: one per response, the final ones; no padding rows.
            group_ids: one label per response, equal for responses to the same prompt.
            task_ids: one label per response, equal for prompts of the same task; needed by
                ``task_multipliers`` and ignored without.

        Returns:
            For each prompt, in order of appearance, is it kept?

        Raises:
            ValueError: rewards and labels are not one per response; a reward is NaN or infinite; a
                label is NaN; or there are multipliers, but no task ids, none for a task, or a
                prompt with two tasks.
        """
        stds = _group_stds(rewards, group_ids)
        factors = self._factors(group_ids, task_ids)
        if self._mean_std is None:
            return dict.fromkeys(stds, True)
        return {
            group: self.threshold <= std * factors.get(group, 1.0) <= _LARGEST_STD
            for group, (std, _) in stds.items()
        }

    def observe(
        self,
        step: int,
        rewards: Float[Tensor, " batch"] | Collection[float],
        group_ids: Collection[Hashable],
    ) -> float:
        """Takes a step's rewards into the threshold of the next one.

        Args:
            step: the trainer's, later than the one observed before.
            rewards: one per response of all prompts of the step, those filtered out included; no
                padding rows.
            group_ids: one label per response, equal for responses to the same prompt.

        Returns:
            The step's own mean of s over its responses.

        Raises:
            ValueError: as :meth:`keep`; there are no rewards; the step is not later than the one
                before; or the warm-up is over without one of its steps having been observed. The
                filter then stays as it was.
        """
        stds = _group_stds(rewards, group_ids)
        if not stds:
            raise ValueError("rewards are empty: leave out a step without responses")
        if step <= self._last_step:
            raise ValueError(f"step must be later than {self._last_step}, got {step}")
        if step > self.warmup_to and self._mean_std is None and not self._warmup_means:
            raise ValueError(
                f"step {step} comes after a warm-up that was not observed: load the filter's state "
                f"or move warmup_from={self.warmup_from} and warmup_to={self.warmup_to}"
            )
        # Exact sums, rounded once: neither the order of the rows nor equal values can move them.
        mean = statistics.mean([std for std, size in stds.values() for _ in range(size)])
        if self.warmup_from <= step <= self.warmup_to:
            self._warmup_means.append(mean)
        if step >= self.warmup_to and self._mean_std is None:
            self._mean_std = statistics.mean(self._warmup_means)
        if step > self.warmup_to and self._mean_std is not None:
            self._mean_std += (1 - self.decay) * (mean - self._mean_std)
        self._last_step = step
        return mean

    def _factors(
        self, group_ids: Collection[Hashable], task_ids: Collection[Hashable] | None
    ) -> dict[Hashable, float]:
        """Each prompt's multiplier; empty where there are none."""
        if not self.task_multipliers:
            return {}
        if task_ids is None:
            raise ValueError("task_multipliers need task_ids, one label per response")
        groups = _labels("group_ids", group_ids, len(group_ids))
        tasks = _labels("task_ids", task_ids, len(groups))
        missing = sorted({str(task) for task in tasks if task not in self.task_multipliers})
        if missing:
            raise ValueError(
                f"task_multipliers lack {missing}: give each task one, 1 for no change"
            )
        pairs = set(zip(groups, tasks, strict=True))
        if len(pairs) > len(set(groups)):
            raise ValueError("task_ids differ within a group: a prompt belongs to one task")
        return {group: self.task_multipliers[task] for group, task in pairs}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; the parameters are settings and not part of it."""
        return {
            "last_step": self._last_step,
            "warmup_means": list(self._warmup_means),
            "mean_std": self._mean_std,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where ``state_dict`` left off; ValueError if the state is another class's."""
        if set(state) != _KEYS:
            raise ValueError(
                f"the filter's state must have the keys {sorted(_KEYS)}, got {sorted(state)}"
            )
        self._last_step = int(state["last_step"])
        self._warmup_means = [float(mean) for mean in state["warmup_means"]]
        self._mean_std = None if state["mean_std"] is None else float(state["mean_std"])


def _group_stds(
    rewards: Float[Tensor, " batch"] | Collection[float], group_ids: Collection[Hashable]
) -> dict[Hashable, tuple[float, int]]:
    """Each prompt's standard deviation and how many responses it has, in order of appearance."""
    values = torch.as_tensor(rewards, dtype=torch.float64)
    if values.dim() != 1:
        raise ValueError(f"rewards must be one per response, got shape {tuple(values.shape)}")
    require_finite("rewards", values, "score the response, or leave its prompt out")
    members: dict[Hashable, list[float]] = {}
    labels = _labels("group_ids", group_ids, len(values))
    for label, value in zip(labels, values.tolist(), strict=True):
        members.setdefault(label, []).append(value)
    return {
        label: (statistics.stdev(group) if len(group) > 1 else 1.0, len(group))
        for label, group in members.items()
    }


def _labels(name: str, labels: Collection[Hashable], rows: int) -> list[Hashable]:
    """One label per row, refused as :func:`~verl_ext.tensor_ops.label_index` refuses them."""
    label_index(name, labels, rows, torch.device("cpu"))
    # Elements of a tensor are hashed by identity: each would be a label of its own.
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)
