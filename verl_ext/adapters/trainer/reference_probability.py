"""The reference-probability reward in the trainer: what is pending, what is missing, metrics."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import wraps
from statistics import fmean
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_ext.adapters.reference_probability.report import (
    REPORT,
    Pending,
    Report,
    extra_info,
    total,
)
from verl_ext.adapters.reference_probability.settings import KEY
from verl_ext.adapters.rollout.reference_probability import UNSCORED, ScoringError
from verl_ext.adapters.rollout.stopping import stop_when_told
from verl_ext.adapters.sessions import sessions
from verl_ext.adapters.trainer import our_workers
from verl_ext.adapters.trainer.base_scores import BaseScored
from verl_ext.reward_fns.reference_reward import Parts
from verl_ext.reward_fns.splice import Outcome, of_reference, outcome_counts

METRIC = "verl_ext/reference_probability"
SCORED = (Outcome.OK.value, Outcome.INVALID_FORMAT.value)
ALONE = "alone"  # scored, but all its siblings are not: it has no baseline
UNSCORED_NAMES = [name for name in outcome_counts([]) if name not in SCORED] + [ALONE]


class ReferenceRewards(BaseScored):
    """What ``algorithm.verl_ext.group_reward.reference_probability`` asks of the trainer."""

    def __init__(self, config: DictConfig) -> None:
        self._ext_unscored: Counter[str] = Counter()  # of the step
        self._ext_missing: Counter[str] = Counter()  # of its batch in hand
        super().__init__(config)
        # After it: the workers are chosen before they are made, and BaseScored reads the section.
        if self.ext_reference is not None:
            our_workers.choose(config, f"{KEY} rewards responses as they are sampled")

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        if self.ext_reference is not None:
            stop_when_told(buffer)
            note_unscored(buffer, self._ext_note)
        return buffer

    def _ext_note(self, outcomes: list[str], rows: int) -> None:
        """Remembers what the batch in hand is without."""
        self._ext_missing = Counter(outcomes)
        if outcomes and not rows:
            raise ScoringError(f"{KEY}: no response could be scored: {_in_words(outcomes)}")
        if outcomes:
            print(
                f"[verl_ext] step {self.global_steps}: {len(outcomes)} of {len(outcomes) + rows} "
                f"responses have no reward and are left out: {_in_words(outcomes)}"
            )

    def _balance_batch(self, batch: KVBatchMeta, *rest: Any, **more: Any) -> KVBatchMeta:
        """As verl's; before it, every row has a reward and every group a baseline."""
        if self.ext_reference is not None and batch.partition_id == "train":
            if self.ext_reference.mode == "trainer":
                batch = self._ext_scored(batch)
            if self._ext_missing and self.config.actor_rollout_ref.rollout.n > 1:
                alone = _alone(batch)
                self._ext_missing[ALONE] += len({batch.keys[row].split("_")[0] for row in alone})
                batch = self._ext_without(batch, alone)
            self._ext_unscored.update(self._ext_missing)
        return super()._balance_batch(batch, *rest, **more)  # type: ignore[misc]

    def _ext_scored(self, batch: KVBatchMeta) -> KVBatchMeta:
        """Gives the pending responses their rewards; those that have none are left out."""
        columns = ["extra_fields", "prompts", "rm_scores"]
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=columns
        )
        extra = [dict(_plain(value)) for value in data["extra_fields"]]
        reports = {n: Report(**told[REPORT]) for n, told in enumerate(extra) if REPORT in told}
        pending = {n: Pending(**report.pending) for n, report in reports.items() if report.pending}
        if not pending:
            return batch
        parts = self._ext_parts(data["prompts"].unbind(), pending)
        rewards = [row.clone() for row in data["rm_scores"].unbind()]
        siblings = _outputs_of_session(batch)
        for n, of_row in parts.items():
            if of_row.scored:
                report = replace(reports[n], parts=asdict(of_row), pending=None)
                extra[n][REPORT] = asdict(report)
                for output in siblings[n]:
                    rewards[output][-1] = total(report)
                    info = extra[output].get("reward_extra_info") or {}
                    extra[output]["reward_extra_info"] = info | extra_info(report)
        tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=list_of_dict_to_tensordict(
                [
                    {"rm_scores": reward, "extra_fields": told}
                    for reward, told in zip(rewards, extra, strict=True)
                ]
            ),
        )
        unscored = {n: of_row.outcome.value for n, of_row in parts.items() if not of_row.scored}
        if unscored:
            self._ext_missing.update(unscored.values())
            print(
                f"[verl_ext] step {self.global_steps}: {len(unscored)} of {len(parts)} responses "
                f"have no reward and are left out: {_in_words(list(unscored.values()))}"
            )
        return self._ext_without(batch, [m for n in unscored for m in siblings[n]])

    def _ext_parts(
        self, prompts: Sequence[Tensor], pending: Mapping[int, Pending]
    ) -> dict[int, Parts]:
        """What the training engine makes of the pending responses, by row."""
        assert self.ext_reference is not None
        rule = self.ext_reference.rule()
        readings = [
            self.ext_reading(prompts[n].tolist(), one.token_ids) for n, one in pending.items()
        ]
        told = self.ext_actor_log_probs(readings)
        made = {}
        for (n, one), values in zip(pending.items(), told, strict=True):
            own = of_reference(values.tolist(), one.reference)
            made[n] = rule.parts(one.response, Outcome.OK, own, one.base)
        return made

    def _ext_without(self, batch: KVBatchMeta, rows: list[int]) -> KVBatchMeta:
        """The batch without some of its rows, which leave the queue too."""
        if not rows:
            return batch
        gone = {batch.keys[row] for row in rows}
        tq.kv_clear(keys=sorted(gone), partition_id=batch.partition_id)
        left = [key for key in batch.keys if key not in gone]
        if not left:
            outcomes = list(self._ext_missing.elements())
            raise ScoringError(f"{KEY}: no response could be scored: {_in_words(outcomes)}")
        return batch.select_keys(left)

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """Counts the responses without a reward anew."""
        self._ext_unscored = Counter()
        return super().step(metrics, timing_raw)

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], *rest: Any, **more: Any
    ) -> None:
        """Past verl's aggregation over sub-batches, which reads meaning into names."""
        super()._compute_metrics(batch, metrics, *rest, **more)  # type: ignore[misc]
        if self.ext_reference is not None:
            metrics.update(self._ext_reward_metrics(batch))

    def _ext_reward_metrics(self, batch: KVBatchMeta) -> dict[str, float]:
        extra = self.ext_batch.get(batch, ["extra_fields"])["extra_fields"]
        last = sessions(batch.keys, batch.tags).last.tolist()
        found = [report for row in last if (report := _plain(extra[row]).get(REPORT))]
        parts = [report["parts"] for report in found]
        valid = [one for one in parts if Outcome(one["outcome"]) is Outcome.OK]
        unscored, asked = self._ext_unscored, len(parts) + self._ext_unscored.total()
        result = {f"{METRIC}/asked": len(parts) / max(len(last), 1)}
        if parts:
            result |= {
                f"{METRIC}/{name}": fmean(one[name] for one in parts)
                for name in ("gain", "format", "repetition")
            }
            result[f"{METRIC}/invalid_format"] = 1 - len(valid) / len(parts)
        if valid:
            result |= {
                f"{METRIC}/{name}": fmean(float(one[name]) for one in valid)
                for name in ("probability", "base", "below_base")
            }
        verified = [report["verifier"] for report in found if report["verifier"] is not None]
        if verified:
            result[f"{METRIC}/verifier"] = fmean(verified)
        result |= {
            f"{METRIC}/unscored/{name}": unscored[name] / max(asked, 1) for name in UNSCORED_NAMES
        }
        if self.ext_bases is not None:
            result[f"{METRIC}/base_cache_hits"] = self.ext_bases.hits / max(len(self.ext_bases), 1)
        return result


def note_unscored(buffer: Any, note: Callable[[list[str], int], None]) -> None:
    """Tells, for each training batch, what became of responses that are not in it.

    Args:
        buffer: verl's replay buffer.
        note: called with the outcomes of the batch's prompts, and the number of its rows.
    """
    select, materialize = buffer._select_prompt_uids, buffer._materialize_batch

    def put_down(uids: Collection[str]) -> dict[str, str]:
        """Outcomes by key, of those prompts."""
        there = buffer.partitions.get(UNSCORED) or {}
        return {key: tag["outcome"] for key, tag in there.items() if tag["uid"] in uids}

    @wraps(select)
    def select_and_note(partition: str, *rest: Any, **more: Any) -> Any:
        uids, rows, steps = select(partition, *rest, **more)
        if partition == "train":
            wanted = set(uids)
            count = sum(key.split("_")[0] in wanted for key in rows)
            # A prompt that a resumed run has asked again may have been put down before.
            scored = {key.rpartition("_")[0] for key in rows}
            unscored = {k: outcome for k, outcome in put_down(wanted).items() if k not in scored}
            note(list(unscored.values()), count)
        return uids, rows, steps

    @wraps(materialize)
    def materialize_and_clear(partition: str, uids: Any, rows: Any) -> Any:
        if partition == "train":
            waiting = buffer.prompt_global_steps[partition].keys() - set(uids)
            there = buffer.partitions.get(UNSCORED) or {}
            done = there.keys() - put_down(waiting)  # of this batch, and of prompts filtered out
            if done:
                tq.kv_clear(keys=sorted(done), partition_id=UNSCORED)
        return materialize(partition, uids, rows)

    buffer._select_prompt_uids, buffer._materialize_batch = select_and_note, materialize_and_clear


def _outputs_of_session(batch: KVBatchMeta) -> dict[int, list[int]]:
    """For each row, all rows of its session."""
    outputs = sessions(batch.keys, batch.tags).outputs.tolist()
    return {n: [m for m in row if m >= 0] for row in outputs for n in row if n >= 0}


def _alone(batch: KVBatchMeta) -> list[int]:
    """Rows of the groups of which one session is left: without a second there is no baseline."""
    of_group: dict[str, set[str]] = {}
    for key in batch.keys:
        uid, session, _ = key.split("_")
        of_group.setdefault(uid, set()).add(session)
    return [n for n, key in enumerate(batch.keys) if len(of_group[key.split("_")[0]]) == 1]


def _plain(value: Any) -> Any:
    return getattr(value, "data", value)


def _in_words(outcomes: list[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(outcomes).most_common())
