"""One task's prompts, visited again and again."""

import random
from collections import deque
from collections.abc import Sequence
from typing import Any


class Visits:
    """Passes over one task: each visits every prompt once, in an order of its own.

    Where one pass meets the next, a prompt comes again only after ``gap`` others of its task, so
    that no batch across the border holds it twice.

    Args:
        members: dataset indices of the task.
        gap: number of other prompts between two visits of the same, < len(members).
        seed: any text; with the number of the pass it decides the order, whatever else is drawn.
        shuffle: False keeps the order of ``members`` in every pass.
    """

    def __init__(self, members: Sequence[int], *, gap: int, seed: str, shuffle: bool) -> None:
        self._members = list(members)
        self._gap = gap
        self._seed = seed
        self._shuffle = shuffle
        self._order: list[int]
        self._at: int
        self._begin(0, [])

    def draw(self) -> int:
        """The next dataset index."""
        if self._at == len(self._order):
            self._begin(self._pass + 1, self._order[len(self._order) - self._gap :])
        self._at += 1
        return self._order[self._at - 1]

    def state_dict(self) -> dict[str, Any]:
        """Where the visits stand: two numbers, and the ``gap`` indices that ended the last pass."""
        return {"pass": self._pass, "at": self._at, "before": list(self._before)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from ``state_dict()`` of the same members, gap, seed and shuffle."""
        self._begin(state["pass"], list(state["before"]))
        self._at = state["at"]

    def _begin(self, number: int, before: list[int]) -> None:
        self._pass, self._before, self._at = number, before, 0
        self._order = self._shuffled() if self._shuffle else self._members

    def _shuffled(self) -> list[int]:
        # Seeded with text: the same on every platform and under any PYTHONHASHSEED.
        rng = random.Random(f"{self._seed}/{self._pass}")
        held_back = deque(self._before)
        withheld = set(self._before)
        pool = [index for index in self._members if index not in withheld]
        order = []
        while pool:
            chosen = rng.randrange(len(pool))
            pool[chosen], pool[-1] = pool[-1], pool[chosen]
            order.append(pool.pop())
            if held_back:  # the one visited longest ago may come again from here on
                pool.append(held_back.popleft())
        return order
