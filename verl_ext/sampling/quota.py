"""How many prompts of each task a batch holds.

Source: Shen et al., "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory
Management", 2025, https://arxiv.org/abs/2512.12967, task-balanced sampling; the rules below are
ours where the authors' sampler repairs its input.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any, TypeAlias

from verl_ext.suggest import nearest

# What the weights' sum may miss 1 by: seven written digits of 1/3 pass, three do not.
SUM_TOLERANCE = Fraction(1, 1_000_000)

Weights: TypeAlias = str | Mapping[Any, float]
Sizes: TypeAlias = Mapping[Hashable, int]


def shares(weights: Weights, sizes: Sizes) -> dict[Hashable, Fraction]:
    """Each task's part of the batch, as exact fractions that sum to 1.

    Args:
        weights: ``"uniform"``; ``"proportional"`` to the sizes; or one number ≥ 0 for each task,
            read as written (0.29 is 29/100, not the nearest float). They sum to 1 up to 1e-6, and
            that remainder is scaled away. 0 leaves a task out.
        sizes: number of prompts of each task, at least 1.

    Returns:
        The shares in the order of ``sizes``.

    Raises:
        ValueError: there is no task; a task is empty; ``weights`` is something else; a task has no
            weight, or a weight no task; a weight is no finite number ≥ 0; the sum is not 1.
    """
    if not sizes:
        raise ValueError("there are no tasks to balance: the data set is empty")
    empty = [task for task, size in sizes.items() if size < 1]
    if empty:
        raise ValueError(f"every task needs at least one prompt, {_names(empty)} has none")
    if weights == "uniform":
        return dict.fromkeys(sizes, Fraction(1, len(sizes)))
    if weights == "proportional":
        return {task: Fraction(size, sum(sizes.values())) for task, size in sizes.items()}
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"weights must be 'uniform', 'proportional' or one number per task, got {weights!r}"
        )
    _refuse_other_names(weights, sizes)
    parts = {task: _as_written(task, weights[task]) for task in sizes}
    total = sum(parts.values(), Fraction(0))
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"weights must sum to 1, they sum to {float(total):.9g}: {dict(weights)}")
    return {task: part / total for task, part in parts.items()}


def exact_quotas(batch_size: int, weights: Weights, sizes: Sizes) -> dict[Hashable, Fraction]:
    """Each task's prompts per batch before rounding: its share of the batch, at most its size.

    A task with fewer prompts than its share gives all of them to every batch, and the others divide
    what it leaves by their weights. So no prompt has to stand in a batch twice.

    Args:
        batch_size: prompts per batch.
        weights: see ``shares``.
        sizes: see ``shares``.

    Returns:
        Quotas that sum to ``batch_size``, in the order of ``sizes``.

    Raises:
        ValueError: as ``shares``; ``batch_size`` is not a positive integer; the tasks with a weight
            hold fewer prompts than a batch.
    """
    sharing = {task: share for task, share in shares(weights, sizes).items() if share > 0}
    _refuse_batch_size(batch_size, {task: sizes[task] for task in sharing})
    exact = dict.fromkeys(sizes, Fraction(0))
    left = Fraction(batch_size)
    while sharing:
        unit = left / sum(sharing.values())
        full = [task for task, share in sharing.items() if unit * share >= sizes[task]]
        if not full:
            return exact | {task: unit * share for task, share in sharing.items()}
        for task in full:
            exact[task] = Fraction(sizes[task])
            left -= sizes[task]
            del sharing[task]
    return exact


def leftover_owners(exact: Sequence[Fraction], window: int, awarded: Sequence[int]) -> list[int]:
    """The tasks that get one prompt more than the whole part of their quota in this window.

    The places that rounding down leaves go to the tasks furthest behind their exact quotas, so they
    take turns. Ties go to the task that comes first.

    Args:
        exact: from ``exact_quotas``.
        window: number of the batch, from 0.
        awarded: how many such places each task got in the windows before.

    Returns:
        Positions in ``exact``, ascending, each at most once.
    """
    fractions = [quota - math.floor(quota) for quota in exact]
    leftover = int(sum(fractions))
    # A whole quota is always met: its task takes no turn.
    waiting = [number for number, fraction in enumerate(fractions) if fraction]
    waiting.sort(key=lambda number: awarded[number] - (window + 1) * fractions[number])
    return sorted(waiting[:leftover])


def window_quotas(batch_size: int, weights: Weights, sizes: Sizes) -> Iterator[dict[Hashable, int]]:
    """The quotas of one batch after another, without end.

    Every count is its exact quota rounded down or up. Where quotas are whole numbers, all batches
    are alike. Elsewhere the remainder takes turns: with the same quotas for ever, three equal tasks
    would get 3, 3 and 2 of every 8 prompts, and a task of less than half a prompt per batch none.

    Args:
        batch_size: prompts per batch.
        weights: see ``shares``.
        sizes: see ``shares``.

    Raises:
        ValueError: as ``exact_quotas``, at the first value.
    """
    exact = exact_quotas(batch_size, weights, sizes)
    quotas_of = list(exact.values())
    awarded = [0] * len(exact)
    window = 0
    while True:
        counts = [math.floor(quota) for quota in quotas_of]
        for owner in leftover_owners(quotas_of, window, awarded):
            counts[owner] += 1
            awarded[owner] += 1
        yield dict(zip(exact, counts, strict=True))
        window += 1


def quotas(batch_size: int, weights: Weights, sizes: Sizes) -> dict[Hashable, int]:
    """The prompts of each task in the first batch: largest remainders, ties to the first task.

    Args:
        batch_size: prompts per batch.
        weights: see ``shares``.
        sizes: see ``shares``.

    Raises:
        ValueError: as ``exact_quotas``.

    Deviations: the authors round down in floating point (29 % of 100 is 28), top up by descending
    weight, accept any sum of weights, and never return where the data is smaller than a batch.
    """
    return next(window_quotas(batch_size, weights, sizes))


def select(
    quota: Mapping[Hashable, int], task_ids: Sequence[Hashable]
) -> tuple[list[int], dict[Hashable, int]]:
    """Picks a batch that meets its quota from the prompts that are ready, earliest first.

    Args:
        quota: prompts wanted of each task.
        task_ids: task of each prompt that is ready.

    Returns:
        Positions in ``task_ids``, ascending, and how many prompts each short task still lacks; the
        batch is complete where that is empty.
    """
    missing = Counter(dict(quota))
    chosen = []
    for position, task in enumerate(task_ids):
        if missing[task] > 0:
            missing[task] -= 1
            chosen.append(position)
    return chosen, {task: count for task, count in missing.items() if count > 0}


def _refuse_other_names(weights: Mapping[Any, float], sizes: Sizes) -> None:
    known = {str(task): task for task in sizes}
    for name in weights:
        if name not in sizes:
            raise ValueError(
                f"weights: no prompt belongs to task {name!r}; did you mean "
                f"{known[nearest(str(name), known)]!r}? The tasks are {_names(sizes)}"
            )
    without = [task for task in sizes if task not in weights]
    if without:
        raise ValueError(f"weights: no weight for {_names(without)}; 0 leaves a task out")


def _as_written(task: Hashable, weight: object) -> Fraction:
    number = isinstance(weight, Real | Decimal) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight < 0:  # type: ignore[arg-type,operator]
        raise ValueError(f"weights: {task!r} must have a finite number >= 0, got {weight!r}")
    return Fraction(str(weight))


def _refuse_batch_size(batch_size: int, sizes: Sizes) -> None:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    held = sum(sizes.values())
    if held < batch_size:
        listed = ", ".join(f"{size} of {task!r}" for task, size in sizes.items())
        raise ValueError(
            f"batch_size {batch_size} is more than the {held} prompts of the tasks with a weight "
            f"({listed})"
        )


def _names(tasks: Any) -> str:
    return ", ".join(repr(task) for task in tasks)
