"""The tournament reward in the trainer: its metrics, replaced groups, and the policy as judge."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from transfer_queue import KVBatchMeta

from verl_ext.adapters.rollout.stopping import stop_when_told
from verl_ext.adapters.rollout.tournament import REPORT, JudgeFailedError
from verl_ext.adapters.sessions import sessions
from verl_ext.adapters.tournament.group import noise
from verl_ext.adapters.tournament.settings import KEY, POLICY, Tournament, tournament
from verl_ext.adapters.trainer import our_workers
from verl_ext.adapters.trainer.stage import Stage

METRIC = "verl_ext/tournament"
REFILL = "trainer.v1.sampler.sync_refill_failed_groups"


class TournamentRewards(Stage):
    """What ``algorithm.verl_ext.group_reward.tournament`` asks of the trainer."""

    def __init__(self, config: DictConfig) -> None:
        self.ext_tournament: Tournament | None = tournament(config)
        self._ext_replaced = 0
        self._ext_idle = False
        if self.ext_tournament is not None:
            our_workers.choose(config, f"{KEY} judges responses as they are sampled")
            if self.ext_tournament.on_failure == "drop_group":
                OmegaConf.update(config, REFILL, True, force_add=True)
        super().__init__(config)  # type: ignore[call-arg]

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        if self.ext_tournament is not None:
            stop_when_told(buffer)
            if self.ext_tournament.max_dropped is not None:
                limit = self.ext_tournament.max_dropped * self.config.data.train_batch_size
                watch_failed(buffer, lambda count: self._ext_note_replaced(count, limit))
        return buffer

    def _ext_note_replaced(self, count: int, limit: float) -> None:
        self._ext_replaced += count
        if self._ext_replaced > limit:
            raise JudgeFailedError(
                f"{KEY}: {self._ext_replaced} groups dropped in one step, and max_dropped allows "
                f"{limit:g}. See the judge's failures in the log above; let such groups teach "
                f"nothing instead: {KEY}.on_failure=void_pair {KEY}.max_dropped=null"
            )

    def on_init_end(self) -> None:
        """Tells the workers, which are still to come, where the policy's own servers are."""
        super().on_init_end()  # type: ignore[misc]
        if self.ext_tournament is not None and self.ext_tournament.address == POLICY:
            urls = [f"http://{one}/v1" for one in self.ext_rollout_servers.get_addresses()]
            with open_dict(self.config):
                self.config.algorithm.verl_ext.group_reward.tournament.urls = urls
            _ = replace(self.ext_tournament, urls=tuple(urls)).judges  # refuses to have none

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        if self.ext_tournament is not None:
            advantages = self.ext_batch.get(batch, ["advantages"])["advantages"]
            learns = any(bool(row.any()) for row in advantages.unbind())
            self._ext_idle = not (learns or self.ext_loss_teaches)
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """As verl's, but where the judge has told nobody apart: momentum would move the policy."""
        if self.ext_tournament is None:
            updated: KVBatchMeta = super()._update_actor(batch, metrics)  # type: ignore[misc]
            return updated
        metrics["verl_ext/skipped_update"] = float(self._ext_idle)
        if self._ext_idle:
            print(f"[verl_ext] step {self.global_steps}: all groups void or equal, no update")
            return batch
        updated = super()._update_actor(batch, metrics)  # type: ignore[misc]
        return updated

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, Any]) -> KVBatchMeta:
        """Counts replaced groups anew."""
        self._ext_replaced = 0
        batch: KVBatchMeta = super().step(metrics, timing_raw)  # type: ignore[misc]
        return batch

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], *rest: Any, **more: Any
    ) -> None:
        """Past verl's aggregation over sub-batches, which reads meaning into names."""
        super()._compute_metrics(batch, metrics, *rest, **more)  # type: ignore[misc]
        if self.ext_tournament is not None:
            extra = self.ext_batch.get(batch, ["extra_fields"])["extra_fields"]
            groups: dict[str, Mapping[str, Any]] = {}
            for row in sessions(batch.keys, batch.tags).last.tolist():
                told = getattr(extra[row], "data", extra[row])
                if REPORT in told:
                    groups[batch.keys[row].split("_")[0]] = told[REPORT]
            metrics.update(group_metrics(list(groups.values())))
            if self.ext_tournament.max_dropped is not None:
                metrics[f"{METRIC}/replaced_groups"] = float(self._ext_replaced)


def group_metrics(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a step's judgements say, of its groups' reports.

    ``spread`` is the standard deviation of the points within a group, ``noise`` that of what the
    judge's mood adds to them: where they are alike the judge cannot tell the responses apart.
    """
    sums: Counter[str] = Counter()
    for group in groups:
        sums.update(group["sums"])
    found = {
        "void_groups": fmean(group["void"] for group in groups) if groups else 0.0,
        "equal_groups": fmean(group["equal"] for group in groups) if groups else 0.0,
        "comparisons": float(sums["comparisons"]),
        "void_share": sums["void"] / max(sums["comparisons"], 1),
        "calls": float(sums["calls"]),
    }
    if sums["calls"]:
        found["call_seconds"] = sums["seconds"] / sums["calls"]
        found["tokens_per_call"] = sums["tokens"] / sums["calls"]
        found["cached"] = sums["cached"] / sums["calls"]
    if sums["pairs"]:
        found["position_bias"] = sums["order"] / sums["pairs"]
    if sums["spread_groups"]:
        found["spread"] = sums["spread"] / sums["spread_groups"]
    of_judge = noise(sums)
    if not math.isnan(of_judge):
        found["noise"] = of_judge
    for name, count in sums.items():
        if name.startswith("failed/"):
            found[name] = count / sums["calls"]
    return {f"{METRIC}/{name}": float(value) for name, value in found.items()}


def watch_failed(buffer: Any, note: Callable[[int], None]) -> None:
    """Tells how many failed training prompts are about to be replaced, each time some are.

    Args:
        buffer: verl's replay buffer.
        note: called with their number.
    """
    evict = buffer._evict_terminal_groups

    @wraps(evict)
    def evict_and_note(global_steps: int, partition_id: str, reasons: Any) -> Any:
        if partition_id == "train" and reasons[2]:
            note(len(reasons[2]))
        return evict(global_steps, partition_id, reasons)

    buffer._evict_terminal_groups = evict_and_note
