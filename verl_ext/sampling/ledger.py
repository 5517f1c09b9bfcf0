"""Which tasks the next batches owe.

A batch owes the tasks of its draws: what ``stream.TaskBalancedStream`` hands out is a queue of
tasks in which every window meets its quota, and the k-th batch of b prompts is made of any prompts
that have the tasks of places k·b to (k+1)·b − 1. What a batch owes has been drawn, so waiting for
it ends, whatever the size of the batches and whichever prompts finish first.
"""

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from verl_ext.sampling.quota import select


class Ledger:
    """The queue of owed tasks, and the prompts that have been drawn and are not yet trained.

    Args:
        tasks: every task that is sampled; their order decides between equals.
    """

    def __init__(self, tasks: Iterable[Hashable]) -> None:
        self._tasks = tuple(tasks)
        self._queue: deque[Hashable] = deque()
        self._live: dict[str, Hashable] = {}  # in the order of the draws
        self._dropped: Counter[Hashable] = Counter()
        self._refilled: Counter[Hashable] = Counter()

    @property
    def live(self) -> Mapping[str, Hashable]:
        """The task of each prompt drawn and neither taken nor dropped, in the order drawn."""
        return self._live

    @property
    def dropped(self) -> Mapping[Hashable, int]:
        """Prompts of each task dropped since the last batch was taken."""
        return self._dropped

    def draw(self, uids: Sequence[str], tasks: Sequence[Hashable], *, refill: bool) -> None:
        """Notes prompts that are now to be generated.

        Args:
            uids: one new name per prompt.
            tasks: their tasks.
            refill: True where they replace dropped ones. Others are owed by a batch to come.

        Raises:
            ValueError: the lengths differ, or a task is not sampled.
        """
        if len(uids) != len(tasks):
            raise ValueError(f"{len(uids)} uids for {len(tasks)} tasks")
        self._refuse_other_tasks(tasks)
        self._live.update(zip(uids, tasks, strict=True))
        if refill:
            self._refilled.update(tasks)
        else:
            self._queue.extend(tasks)

    def countable(self, ready: Sequence[str]) -> list[str]:
        """The prompts that count: with n of them, the next n places of the queue can be met.

        They fill the queue from its front, as far as there is no gap. Where they fill it to its
        end, all of ``ready`` count: the rest is surplus that no batch owes.

        Args:
            ready: finished prompts, the one to prefer first.

        Returns:
            A part of ``ready``. For every n ≤ the length of the queue, at least n prompts count
            exactly if ``ready`` holds a batch of n.
        """
        unused = Counter(self._tasks_of(ready))
        for place, task in enumerate(self._queue):
            if not unused[task]:
                return self.due(ready, place)
            unused[task] -= 1
        return list(ready)

    def due(self, ready: Sequence[str], count: int) -> list[str]:
        """The first prompts of ``ready`` that have the tasks of the next ``count`` places."""
        quota = Counter(islice(self._queue, count))
        chosen, _ = select(quota, self._tasks_of(ready))
        return [ready[position] for position in chosen]

    def take(self, uids: Sequence[str]) -> list[Hashable]:
        """Takes a batch off the queue.

        Returns:
            The tasks of the batch.

        Raises:
            ValueError: the batch is not what the next ``len(uids)`` places owe.
        """
        tasks = self._tasks_of(uids)
        owed = Counter(islice(self._queue, len(uids)))
        if Counter(tasks) != owed:
            raise ValueError(f"the batch owes {dict(owed)} and was given {dict(Counter(tasks))}")
        for uid in uids:
            self._queue.popleft()
            del self._live[uid]
        self._dropped.clear()
        self._refilled.clear()
        return tasks

    def drop(self, uids: Iterable[str]) -> list[Hashable]:
        """Forgets prompts that will not be trained; the queue still owes their tasks.

        Returns:
            The tasks of the prompts.
        """
        uids = list(uids)
        tasks = self._tasks_of(uids)
        for uid in uids:
            del self._live[uid]
        self._dropped.update(tasks)
        return tasks

    def replacements(self, count: int) -> list[Hashable]:
        """The tasks of the next ``count`` refills.

        First what the queue owes and no live prompt can meet. Beyond that refills are speculative
        (verl asks for two per dropped prompt): they go to the task that has been dropped most, each
        drop being worth two refills; where nothing was dropped, to all tasks in turn.
        """
        missing = Counter(self._queue)
        missing.subtract(self._live.values())
        tasks: list[Hashable] = []
        for task in self._queue:
            if missing[task] > 0 and len(tasks) < count:
                missing[task] -= 1
                tasks.append(task)
        worth = {task: 2 * self._dropped[task] - self._refilled[task] for task in self._tasks}
        for task in tasks:
            worth[task] -= 1
        while len(tasks) < count:
            task = max(worth, key=worth.__getitem__)
            worth[task] -= 1
            tasks.append(task)
        return tasks

    def state_dict(self) -> dict[str, Any]:
        """The queue and the live prompts, to be saved between batches."""
        return {"queue": list(self._queue), "live": [list(pair) for pair in self._live.items()]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues where ``state_dict()`` was taken.

        Raises:
            ValueError: it is another class's state, or holds a task that is not sampled.
        """
        if set(state_dict) != set(self.state_dict()):
            raise ValueError(f"not the state of a ledger: {sorted(state_dict)}")
        live = dict(state_dict["live"])
        self._refuse_other_tasks([*state_dict["queue"], *live.values()])
        self._queue = deque(state_dict["queue"])
        self._live = live
        self._dropped.clear()
        self._refilled.clear()

    def _tasks_of(self, uids: Iterable[str]) -> list[Hashable]:
        try:
            return [self._live[uid] for uid in uids]
        except KeyError as error:
            raise ValueError(f"prompt {error} was never drawn, or is done with") from error

    def _refuse_other_tasks(self, tasks: Iterable[Hashable]) -> None:
        others = [task for task in dict.fromkeys(tasks) if task not in self._tasks]
        if others:
            raise ValueError(f"no prompts of task {others[0]!r} are sampled: {list(self._tasks)}")
