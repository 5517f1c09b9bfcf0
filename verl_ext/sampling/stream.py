"""Task-balanced sampling: every batch holds its quota of each task.

Source: Shen et al., "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory
Management", 2025, https://arxiv.org/abs/2512.12967, task-balanced sampling.
"""

import hashlib
import math
import random
from collections.abc import Hashable, Iterable, Iterator
from fractions import Fraction
from typing import Any

from verl_ext.sampling.quota import Weights, exact_quotas, leftover_owners, shares
from verl_ext.sampling.visits import Visits
from verl_ext.suggest import nearest


class TaskBalancedStream:
    """An endless stream of dataset indices in which every batch meets the quotas of its tasks.

    It yields single indices, so the size of the fetches does not matter: what counts is that
    indices ``k·batch_size`` to ``(k+1)·batch_size − 1`` are one batch. Its counts are those of
    ``quota.window_quotas``.

    Within a batch the tasks have fixed places, shuffled once by the seed. So whoever took some
    indices in between loses nothing where quotas are whole numbers: any ``batch_size`` consecutive
    indices meet them. Elsewhere such a run holds at least a quota's whole part and at most 2 more.

    A task is visited pass by pass: every prompt once, then all again in another order. A batch
    takes the last prompts of one pass and the first of the next, and none twice (replacements, see
    below, may bring the border of a pass too near). Small tasks begin new passes earlier than large
    ones.

    ``for index in stream`` and ``iter(stream)`` give an epoch, or what is left of it, and the next
    ``iter`` continues. An epoch is ``len(stream)`` indices, as many whole batches as the data set
    could fill (verl's ``steps_per_epoch``). It is a length only: passes run on across its end.

    A prompt that a filter dropped is replaced through ``next_of``, from the same task, and
    ``quota.select`` picks the batch from what is ready. A reader that asks the stream itself for
    replacements gets whichever tasks come next, and its batches drift from the quotas. Replacements
    are exact across a restart only where nothing reads ahead (``data.dataloader_num_workers=0``):
    workers are handed indices early, and a position saved for them does not know of ``next_of``.

    Args:
        task_ids: task of each row of the data set.
        batch_size: prompts per training batch (``data.train_batch_size``).
        weights: ``"uniform"``, ``"proportional"`` or one number per task; see ``quota.shares``.
        seed: decides every order. Only private generators are used.
        shuffle: False visits each task in the order of the data set, and the tasks of a batch
            one after another.

    Attributes:
        exact: prompts of each task per batch before rounding. A task whose value is below
            its share of the batch has too few prompts and gives all of them to every batch.
        shares: the part of the batch that the weights ask for.

    Raises:
        ValueError: a row has no task (None); otherwise as ``quota.exact_quotas``.

    Deviations: the authors reshuffle a task that has too few prompts left for a batch and so
    discard the rest of its pass; they draw from the global generator and keep no position.
    """

    def __init__(
        self,
        task_ids: Iterable[Hashable],
        batch_size: int,
        *,
        weights: Weights = "uniform",
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        rows = list(task_ids)
        members = _rows_of(rows)
        sizes = {task: len(indices) for task, indices in members.items()}
        self.shares = shares(weights, sizes)
        self.exact = exact_quotas(batch_size, weights, sizes)
        self._batch_size = batch_size
        self._epoch = len(rows) // batch_size * batch_size
        self._settings = _settings(rows, batch_size, self.shares, seed, shuffle)
        self._quotas = list(self.exact.values())
        self._places = _places(self._quotas, seed if shuffle else None)
        self._visits = [
            Visits(
                indices,
                gap=max(0, math.ceil(self.exact[task]) - 1),
                seed=f"{seed}/{number}",
                shuffle=shuffle,
            )
            for number, (task, indices) in enumerate(members.items())
        ]
        self._number = {task: number for number, task in enumerate(members)}
        self._position = 0
        self._awarded = [0] * len(members)  # leftover places before the current batch
        self._owners: list[int] = []

    def __len__(self) -> int:
        """Indices per epoch, a multiple of the batch size."""
        return self._epoch

    def __iter__(self) -> Iterator[int]:
        """Yields what is left of the epoch; a whole one where the last has just ended."""
        yield self.draw()
        while self._position % self._epoch:
            yield self.draw()

    def draw(self) -> int:
        """The next dataset index."""
        place = self._position % self._batch_size
        if place == 0:
            self._owners = self._current_owners()
        task = self._places[place]
        if task < 0:  # ~task is the number of a place that tasks take in turns
            task = self._owners[~task]
        self._position += 1
        if self._position % self._batch_size == 0:
            for owner in self._owners:
                self._awarded[owner] += 1
        return self._visits[task].draw()

    def next_of(self, task: Hashable) -> int:
        """The next dataset index of one task, for a prompt of that task that was dropped.

        It continues the task's pass and leaves the batches' counts alone: the batch that the
        dropped prompt belonged to keeps its quota.

        Args:
            task: one of the data set's tasks.

        Raises:
            ValueError: no prompt belongs to it.
        """
        if task not in self._number:
            known = {str(name): name for name in self._number}
            raise ValueError(
                f"no prompt belongs to task {task!r}; did you mean "
                f"{known[nearest(str(task), known)]!r}?"
            )
        return self._visits[self._number[task]].draw()

    def state_dict(self) -> dict[str, Any]:
        """The position, as numbers, text, lists and dicts: at most ``batch_size`` indices."""
        return {
            "settings": dict(self._settings),
            "position": self._position,
            "awarded": list(self._awarded),
            "visits": [visits.state_dict() for visits in self._visits],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues exactly where ``state_dict()`` was taken, in the middle of a batch too.

        Raises:
            ValueError: the state is not one of this class, or that of other data, weights, batch
                size, seed or shuffle; the message names what differs.
        """
        if set(state_dict) != set(self.state_dict()):
            raise ValueError(f"not the state of a task-balanced stream: {sorted(state_dict)}")
        saved = state_dict["settings"]
        differences = [
            f"{name} was {saved.get(name)}, is {value}"
            for name, value in self._settings.items()
            if saved.get(name) != value
        ]
        if differences:
            raise ValueError(f"the saved position is another stream's: {'; '.join(differences)}")
        self._position = state_dict["position"]
        self._awarded = list(state_dict["awarded"])
        for visits, state in zip(self._visits, state_dict["visits"], strict=True):
            visits.load_state_dict(state)
        self._owners = self._current_owners()

    def _current_owners(self) -> list[int]:
        return leftover_owners(self._quotas, self._position // self._batch_size, self._awarded)


def _rows_of(rows: list[Hashable]) -> dict[Hashable, list[int]]:
    """Dataset indices of each task, tasks in the order of their first rows."""
    members: dict[Hashable, list[int]] = {}
    for index, task in enumerate(rows):
        if task is None:
            raise ValueError(f"row {index} of the data set has no task")
        members.setdefault(task, []).append(index)
    return members


def _places(quotas: list[Fraction], seed: int | None) -> list[int]:
    """The task of each place of a batch; −1, −2, … are the places that tasks take in turns."""
    whole = [math.floor(quota) for quota in quotas]
    places = [task for task, count in enumerate(whole) for _ in range(count)]
    places += [~number for number in range(int(sum(quotas)) - sum(whole))]
    if seed is not None:
        random.Random(f"{seed}/places").shuffle(places)
    return places


def _settings(
    rows: list[Hashable],
    batch_size: int,
    parts: dict[Hashable, Fraction],
    seed: int,
    shuffle: bool,
) -> dict[str, Any]:
    """What a saved position depends on."""
    digest = hashlib.sha256(repr([str(task) for task in rows]).encode()).hexdigest()
    return {
        "task_ids": f"{len(rows)} rows of sha256 {digest[:16]}",
        "batch_size": batch_size,
        "weights": {str(task): str(part) for task, part in parts.items()},
        "seed": seed,
        "shuffle": shuffle,
    }
