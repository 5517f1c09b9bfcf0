"""Task-balanced sampling in verl's V1 trainers.

The trainer reports what it draws (`drawn`) and asks for replacements (`refill_indices`); `watch`
makes verl's replay buffer wait for, and select, what the batch owes (`sampling.ledger`).
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.task_data import KEY, Loader, task_ids
from verl_ext.sampling.ledger import Ledger
from verl_ext.sampling.quota import Weights
from verl_ext.sampling.stream import TaskBalancedStream

TRAIN = "train"
# Prompts of one task that may be dropped for one place in a batch before the run stops. Stock verl
# would go on with other tasks; here the batch would wait for this one, generating for ever.
PATIENCE = 100
# The methods of a replay buffer that are wrapped, and by which of ours.
HOOKS = {
    "_sampleable_terminal_keys": "_countable",
    "_select_prompt_uids": "_due",
    "_materialize_batch": "_take",
    "_clear_groups": "_clear",
}


class TaskBalance:
    """The stream of one run, the ledger of what its batches owe, and their seams to verl.

    Args:
        dataset: verl's; its ``dataframe`` holds the rows that are left after filtering.
        weights: see ``sampling.quota.shares``.
        task_key: the column with each row's task: text or numbers.
        batch_size: ``data.train_batch_size``.
        seed: ``data.seed``; None is 0.
        shuffle: ``data.shuffle``.

    Raises:
        SettingsError: no such column, fewer prompts than a batch, or weights that are not valid.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        weights: Weights,
        task_key: str,
        batch_size: int,
        seed: int | None,
        shuffle: bool,
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        plain = dict(weights) if isinstance(weights, Mapping) else weights
        rows = task_ids(dataset, task_key)
        try:
            self.stream = TaskBalancedStream(
                rows, batch_size, weights=plain, seed=seed or 0, shuffle=shuffle
            )
        except ValueError as error:
            raise SettingsError(f"{KEY}: {error}") from error
        self._ledger = Ledger(task for task, quota in self.stream.exact.items() if quota > 0)
        self._taken: Counter[Hashable] = Counter()
        self._dropped: Counter[Hashable] = Counter()

    def dataloader(
        self,
        *,
        batch_size: int,
        num_workers: int,
        collate_fn: Callable[[list[Any]], Any],
        refills: bool,
    ) -> Loader:
        """The training data loader with verl's own arguments, and the stream as its sampler.

        An epoch is a multiple of the training batch, so ``drop_last`` drops nothing.

        Args:
            batch_size: prompts per fetch (verl's ``gen_batch_size``), a divisor of the batch.
            num_workers: ``data.dataloader_num_workers``.
            collate_fn: verl's.
            refills: whether verl may ask for replacements (it fetches single prompts then).

        Raises:
            SettingsError: the fetches do not divide the batch; or there are both workers, which
                read ahead, and refills, which their saved position does not know of.
        """
        if batch_size < 1 or self._batch_size % batch_size:
            raise SettingsError(
                f"data.gen_batch_size={batch_size} must divide "
                f"data.train_batch_size={self._batch_size} with {KEY}"
            )
        if refills and num_workers:
            raise SettingsError(
                f"data.dataloader_num_workers={num_workers}: set it to 0 with {KEY} where prompts "
                "may be replaced (asynchronous trainers, filter_groups, sync_refill_failed_groups);"
                " workers read ahead, and a resumed run would repeat or lose replacements"
            )
        return Loader(
            dataset=self._dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            drop_last=True,
            collate_fn=collate_fn,
            sampler=self.stream,
        )

    def drawn(self, uids: Sequence[str], tasks: Sequence[Hashable], *, refill: bool) -> None:
        """Notes prompts that are submitted, in the order of the stream; see ``Ledger.draw``."""
        self._ledger.draw(uids, tasks, refill=refill)

    def refill_indices(self, count: int) -> list[int]:
        """Dataset indices of ``count`` replacements; report them through ``drawn``."""
        return [self.stream.next_of(task) for task in self._ledger.replacements(count)]

    def watch(self, buffer: Any) -> None:
        """Makes a replay buffer wait for, and select, what its batches owe.

        Methods of this one object are wrapped: a user's subclass works too. Validation is let be.

        Args:
            buffer: verl's ``ReplayBuffer``, ``ReplayBufferAsync`` or a subclass.

        Raises:
            SettingsError: it lacks a method that is wrapped.
        """
        for hook, ours in HOOKS.items():
            if not hasattr(buffer, hook):
                raise SettingsError(
                    f"trainer.v1.sampler.custom_sampler: {type(buffer).__name__} has no {hook}; "
                    f"{KEY} needs a subclass of verl's ReplayBuffer or ReplayBufferAsync"
                )
            original = getattr(buffer, hook)
            setattr(buffer, hook, functools.partial(getattr(self, ours), buffer, original))

    def metrics(self) -> dict[str, float]:
        """Of each task, the share of what was trained and the prompts dropped since the last call.

        Call it once per step, outside verl's ``MetricsAggregator``: that sums or takes extremes by
        parts of a metric's name, and a task may be called ``summary``.
        """
        total = sum(self._taken.values())
        values: dict[str, float] = {}
        for task, quota in self.stream.exact.items():
            if quota > 0 and total:
                values[f"verl_ext/sampler/{task}/share"] = self._taken[task] / total
                values[f"verl_ext/sampler/{task}/dropped"] = float(self._dropped[task])
        self._taken.clear()
        self._dropped.clear()
        return values

    def state_dict(self) -> dict[str, Any]:
        """What batches owe and which prompts are on their way; the loader saves the stream."""
        return self._ledger.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues where ``state_dict()`` was taken; ValueError if it cannot."""
        self._ledger.load_state_dict(state_dict)

    def check_restored(self, uids: Iterable[str]) -> None:
        """Refuses a resumed run whose queue does not hold the prompts that batches wait for.

        Args:
            uids: the prompts of the training partition after loading.

        Raises:
            SettingsError: they are not those of the state.
        """
        held = set(uids)
        lost, unknown = self._ledger.live.keys() - held, held - self._ledger.live.keys()
        if lost or unknown:
            raise SettingsError(
                f"{KEY}: the checkpoint's transfer_queue lacks {len(lost)} prompts that are owed "
                f"and holds {len(unknown)} that the sampler does not know; resume with the "
                "trainer mode and sampler that wrote it, or start anew: trainer.resume_mode=disable"
            )

    # The wrappers have verl's parameter names: a subclass may pass them by name.

    def _countable(
        self,
        buffer: Any,
        original: Callable[..., set[str]],
        partition_id: str,
        eviction_reasons: Any,
    ) -> set[str]:
        """The prompts that count: verl's ``len(...) >= batch_size`` then means a whole batch."""
        terminal = original(partition_id, eviction_reasons)
        if partition_id != TRAIN:
            return terminal
        return set(self._ledger.countable(self._oldest_first(buffer, terminal)))

    def _due(
        self,
        buffer: Any,
        original: Callable[..., tuple[list[str], Any, Any]],
        partition_id: str,
        sampleable_keys: set[str],
        batch_size: int,
    ) -> tuple[list[str], Any, Any]:
        """The batch due, where verl takes the oldest prompts, equals in the order of a set."""
        if partition_id != TRAIN:
            return original(partition_id, sampleable_keys, batch_size)
        due = self._ledger.due(self._oldest_first(buffer, sampleable_keys), batch_size)
        # With no others to choose from: what is wrapped around verl's choice is told of these.
        return due, *original(partition_id, set(due), batch_size)[1:]

    def _take(
        self,
        _: Any,
        original: Callable[..., Any],
        partition_id: str,
        selected_prompt_uids: list[str],
        partition_snapshot: Any,
    ) -> Any:
        if partition_id == TRAIN:
            self._taken.update(self._ledger.take(selected_prompt_uids))
        return original(partition_id, selected_prompt_uids, partition_snapshot)

    def _clear(
        self, _: Any, original: Callable[..., None], partition_id: str, uids: set[str]
    ) -> None:
        """Evictions, and the surplus of the synchronous trainer with filter_groups."""
        original(partition_id, uids)
        if partition_id != TRAIN:
            return
        self._dropped.update(self._ledger.drop(uids))
        for task, count in self._ledger.dropped.items():
            if count > PATIENCE * math.ceil(self.stream.exact[task]):
                raise RuntimeError(
                    f"{KEY}: one batch needs {float(self.stream.exact[task]):.3g} prompts of task "
                    f"{task!r}, and {count} were dropped for it: they fail, or do not pass the "
                    "filter. Leave the task out with a weight of 0, or filter less"
                )

    def _oldest_first(self, buffer: Any, uids: set[str]) -> list[str]:
        """verl's order, with equals in the order drawn; sets have another in every process."""
        unknown = uids - self._ledger.live.keys()
        if unknown:
            raise RuntimeError(
                f"{KEY}: {len(unknown)} finished prompts were not drawn by this run's sampler"
            )
        steps = buffer.prompt_global_steps[TRAIN]
        drawn = [uid for uid in self._ledger.live if uid in uids]
        return sorted(drawn, key=lambda uid: steps.get(uid, 0))
