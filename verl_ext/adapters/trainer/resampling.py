"""The std filter's ``resample``: prompts of too little spread are replaced before there is a batch.

verl's DAPO filter drops the prompts whose rewards are all equal, and refills; ours decides in its
place which prompts those are.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf

from verl_ext.adapters.masks import MaskChain
from verl_ext.adapters.sessions import sessions
from verl_ext.adapters.task_balance import TRAIN
from verl_ext.adapters.trainer.stage import Stage, task_key
from verl_ext.masks.std_filter import StdFilterMask

KEY = "algorithm.verl_ext.masks.std_filter"


class NotEnoughSpreadError(RuntimeError):
    """Too few prompts pass the filter for a batch."""


class FinishedPrompts:
    """The finished prompts of a replay buffer, each judged once: when it is first seen.

    A prompt of which a response has failed is not among them; verl trains on it, or replaces it.

    Args:
        buffer: verl's ``ReplayBuffer`` or ``ReplayBufferAsync``, with a ``filter_groups_metric``.
        std_filter: judges them.
        batch_size: prompts a step trains on.
        task_key: the column with each prompt's task.

    Attributes:
        dull: of each prompt in the buffer its mean reward if it is to be dropped, else None; NaN
            where no response has a reward.
    """

    def __init__(
        self, buffer: Any, std_filter: StdFilterMask, *, batch_size: int, task_key: str
    ) -> None:
        self._buffer, self._filter = buffer, std_filter
        self._batch_size, self._task_key = batch_size, task_key
        self.dull: dict[str, float | None] = {}

    def dropped(self, partition_id: str) -> tuple[set[str], Counter[float]]:
        """In the place of ``_dapo_filtered_keys``: which prompts to drop, and their mean rewards.

        Raises:
            NotEnoughSpreadError: as many prompts as may be judged in a step have been, and fewer
                than a batch have passed.
        """
        if partition_id != TRAIN:
            return set(), Counter()
        finished = self._buffer.finished_keys[TRAIN]
        self.dull = {uid: reward for uid, reward in self.dull.items() if uid in finished}
        new = finished - self.dull.keys()
        if new:
            self._judge(new)
            self._require_enough()
        dull = {uid: reward for uid, reward in self.dull.items() if reward is not None}
        return set(dull), Counter(dull.values())

    def _judge(self, uids: set[str]) -> None:
        partition = self._buffer.partitions[TRAIN]
        keys = sorted(key for key in partition if key.split("_")[0] in uids)
        rows = sessions(keys, [partition[key] for key in keys])
        last = [keys[row] for row in rows.last.tolist()]  # carries the session's outcome
        group_ids = [key.split("_")[0] for key in last]
        unscored = uids - set(group_ids)  # the reward has left out all of a prompt's responses
        self.dull |= dict.fromkeys(unscored, math.nan)
        self._filter.reject(sorted(unscored))
        if not last:
            return
        with_tasks = "task_ids" in self._filter.needs
        columns = ["rm_scores", *([self._task_key] if with_tasks else [])]
        data = tq.kv_batch_get(keys=last, partition_id=TRAIN, select_fields=columns)
        rewards = [float(row.double().sum()) for row in data["rm_scores"]]
        tasks = data[self._task_key] if with_tasks else None
        kept = self._filter.judge(rewards, group_ids, tasks)
        of_prompt: dict[str, list[float]] = {}
        for uid, reward in zip(group_ids, rewards, strict=True):
            of_prompt.setdefault(uid, []).append(reward)
        for uid, own in of_prompt.items():
            self.dull[uid] = None if kept[uid] else round(statistics.fmean(own), 2)

    def _require_enough(self) -> None:
        judged, passed = len(self._filter.judged), sum(self._filter.judged.values())
        allowed = self._filter.max_gen_batches
        unjudged = len(self._buffer.failure_keys[TRAIN])
        if judged < allowed * self._batch_size or passed + unjudged >= self._batch_size:
            return
        raise NotEnoughSpreadError(
            f"{KEY}: {passed} of {judged} prompts pass, a batch needs {self._batch_size}, and "
            f"max_gen_batches={allowed:g} allows no more in one step. To pass, a prompt's rewards "
            f"must have a standard deviation of {self._filter.threshold:.4g}, which is "
            f"beta={self._filter.beta:g} times the usual. Lower beta; or train on the prompts that "
            "pass, however few: mode=mask; or raise max_gen_batches"
        )


class Resampling(Stage):
    """Puts the std filter in the place of verl's DAPO filter, where ``mode: resample`` asks."""

    ext_masks: MaskChain

    def __init__(self, config: DictConfig) -> None:
        self.ext_finished: FinishedPrompts | None = None
        if self.ext_masks.resampler:
            # verl then fetches and replaces prompts one by one.
            filter_groups = {"enable": True, "metric": "reward"}
            OmegaConf.update(config, "algorithm.filter_groups", filter_groups, force_add=True)
        super().__init__(config)  # type: ignore[call-arg]

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        if self.ext_masks.resampler:
            self.ext_finished = FinishedPrompts(
                buffer,
                self.ext_masks.resampler,
                batch_size=self.config.data.train_batch_size,
                task_key=task_key(self.config),
            )
            buffer._dapo_filtered_keys = self.ext_finished.dropped
        return buffer

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> Any:
        """Adds how many batches' worth of prompts were judged for this one."""
        batch = super().step(metrics, timing_raw)  # type: ignore[misc]
        if self.ext_masks.resampler:
            judged = len(self.ext_masks.resampler.judged)
            metrics["verl_ext/std_filter/gen_batches"] = judged / self.config.data.train_batch_size
        return batch

    def ext_state(self) -> dict[str, Any]:
        """Adds the judged prompts; asynchronous modes save those that are still in the queue."""
        dull = {"finished": dict(self.ext_finished.dull)} if self.ext_finished else {}
        return super().ext_state() | dull

    def ext_restore(self, state: Mapping[str, Any]) -> list[str]:
        """Takes them up; those that are not in the queue any more are forgotten."""
        if self.ext_finished:
            self.ext_finished.dull = dict(state.get("finished", {}))
        return super().ext_restore(state)
