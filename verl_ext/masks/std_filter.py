"""RLPR's standard deviation filter in a trainer: prompts are replaced, or left out of the batch.

Source: Yu et al., "RLPR: Extrapolating RLVR to General Domains without Verifiers", 2025,
https://arxiv.org/abs/2506.18254, section 2; see :mod:`verl_ext.reward_fns.std_filter`.
"""

import math
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from verl_ext.masks.denominator import require_denominator
from verl_ext.reward_fns.std_filter import StdFilter
from verl_ext.suggest import nearest

MODES = ("resample", "mask")
GEN_BATCHES = 10
_KEYS = {"steps", "filter"}


class StdFilterMask:
    """Withholds the prompts whose responses differ too little in reward.

    In both modes a step's prompts are judged by the threshold that the steps before it have left
    (:meth:`judge`), and the step's end moves it (:meth:`end_step`). Steps are those that the filter
    has seen: where it joins a run later, the warm-up begins there.

    Args:
        mode: ``"resample"`` (authors): the replay buffer drops such prompts and others take their
            places; ``"mask"``: they leave the loss, and the batch is that much smaller.
        beta: share of the usual standard deviation that a prompt's must reach; as the next four,
            see :class:`~verl_ext.reward_fns.std_filter.StdFilter`.
        decay: of the moving average, per step.
        warmup_from: first step that counts in the average.
        warmup_to: last step without a filter.
        task_multipliers: of the standard deviation, for each task.
        max_gen_batches: of ``resample``: batches' worth of prompts that may be judged in one step
            for one batch to pass; None for 10.
        denominator: of ``mask``: of the token mean, ``"kept"`` tokens (None; the authors remove the
            prompts) or ``"all"``.

    Attributes:
        resamples: whether the replay buffer is to ask, and not the trainer after the advantage.
        needs: what a call takes beside advantages and mask.
        per_task: ``task_multipliers`` by that name, where there are any.
        beta, denominator, max_gen_batches: as above.
        watches: its first steps, in which it keeps every prompt.
        judged: the prompts of this step so far, and whether they are kept.
        metrics: of the last step: the threshold in force, the share of its prompts that were kept,
            the mean of its standard deviations.
        news: what a person should read once; empty otherwise.

    Raises:
        ValueError: a setting is outside its range, or has no effect in this mode.
    """

    def __init__(  # noqa: PLR0913 -- the keys of its configuration
        self,
        *,
        mode: str = "resample",
        beta: float = 0.5,
        decay: float = 0.99,
        warmup_from: int = 6,
        warmup_to: int = 10,
        task_multipliers: Mapping[Hashable, float] | None = None,
        max_gen_batches: float | None = None,
        denominator: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(
                f"mode must be one of {', '.join(MODES)}, got {mode!r}: "
                f"did you mean {nearest(str(mode), MODES)!r}?"
            )
        self.resamples = mode == "resample"
        idle = (
            {"denominator": denominator} if self.resamples else {"max_gen_batches": max_gen_batches}
        )
        for name, value in idle.items():
            if value is not None:
                raise ValueError(f"{name}={value} has no effect with mode={mode}: make it null")
        if max_gen_batches is None:
            max_gen_batches = GEN_BATCHES
        if not 1 <= max_gen_batches < math.inf:
            raise ValueError(f"max_gen_batches must be finite and >= 1, got {max_gen_batches}")
        self.denominator = denominator or "kept"
        require_denominator(self.denominator)
        multipliers = dict(task_multipliers or {})
        self._filter = StdFilter(beta, decay, warmup_from, warmup_to, multipliers)
        self.beta, self.max_gen_batches = beta, max_gen_batches
        self.watches = warmup_to
        self.per_task = {"task_multipliers": multipliers} if multipliers else {}
        self.needs = ("rewards", "group_ids", *(["task_ids"] if multipliers else []))
        self.judged: dict[Hashable, bool] = {}
        self.metrics: dict[str, float] = {}
        self.news = ""
        self._rewards: list[float] = []
        self._group_ids: list[Hashable] = []
        self._steps = 0

    @property
    def threshold(self) -> float:
        """The standard deviation that a prompt must reach in this step; 0 during the warm-up."""
        return self._filter.threshold

    def judge(
        self,
        rewards: Collection[float],
        group_ids: Collection[Hashable],
        task_ids: Collection[Hashable] | None = None,
    ) -> dict[Hashable, bool]:
        """Which prompts to train on; all of them count in the threshold of the next step.

        Args:
            rewards: one per response, the final ones.
            group_ids: one label per response, equal for responses to the same prompt.
            task_ids: one label per response; needed by ``task_multipliers``.

        Raises:
            ValueError: as ``StdFilter.keep``.
        """
        kept = self._filter.keep(rewards, group_ids, task_ids)
        self._rewards.extend(rewards)
        self._group_ids.extend(group_ids)
        self.judged |= kept
        return kept

    def reject(self, group_ids: Collection[Hashable]) -> None:
        """Puts down prompts of which no response has a reward: dropped, and no part of the average.

        Args:
            group_ids: one label per prompt.
        """
        self.judged |= dict.fromkeys(group_ids, False)

    def __call__(
        self,
        advantages: Float[Tensor, "batch time"],
        response_mask: Shaped[Tensor, "batch time"],
        *,
        rewards: Float[Tensor, " batch"],
        group_ids: Collection[Hashable],
        task_ids: Collection[Hashable] | None = None,
    ) -> Bool[Tensor, "batch time"]:
        """Says which responses may teach.

        Args:
            advantages: per token.
            response_mask: 1 on sampled tokens.
            rewards: of each response, before any KL penalty.
            group_ids: each response's prompt.
            task_ids: each response's task.

        Returns:
            False throughout the responses to a prompt that is withheld.

        Raises:
            ValueError: as :meth:`judge`.
        """
        self.metrics, self.news = {}, ""
        kept = self.judge(rewards.tolist(), group_ids, task_ids)
        keep = torch.tensor([kept[group] for group in group_ids], dtype=torch.bool)
        return keep.to(response_mask.device).unsqueeze(-1).expand(response_mask.shape)

    def end_step(self, step: int) -> None:
        """Moves the threshold by what was judged in a step; a step without a reward is left out.

        Args:
            step: the trainer's, for the news.
        """
        judged, rewards, group_ids = self.judged, self._rewards, self._group_ids
        self.judged, self._rewards, self._group_ids = {}, [], []
        self.metrics, self.news = {}, ""
        if not rewards:
            return
        before = self.threshold
        if self._steps == 0:
            self.news = f"no prompt is dropped up to step {step + self._filter.warmup_to - 1}"
        self._steps += 1
        mean = self._filter.observe(self._steps, rewards, group_ids)
        if self._steps == self._filter.warmup_to:
            self.news = f"from now on a prompt's standard deviation must reach {self.threshold:.4g}"
        kept = sum(judged.values()) / len(judged)
        self.metrics = {"threshold": before, "kept": kept, "mean_std": mean}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; to be taken between two steps."""
        return {"steps": self._steps, "filter": self._filter.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where ``state_dict`` left off; ValueError if the state is another mask's."""
        if set(state) != _KEYS:
            raise ValueError(f"the state must have the keys {sorted(_KEYS)}, got {sorted(state)}")
        self._filter.load_state_dict(state["filter"])
        self._steps = int(state["steps"])
