"""Mixtures of tasks, streams of them, and what is drawn."""

import random
from collections import Counter
from fractions import Fraction

from hypothesis import assume
from hypothesis import strategies as st

from verl_ext.sampling.quota import window_quotas
from verl_ext.sampling.stream import TaskBalancedStream


def rows(**sizes):
    """Task of each row, tasks mixed."""
    task_ids = [task for task, size in sizes.items() for _ in range(size)]
    random.Random(0).shuffle(task_ids)
    return task_ids


def take(stream, number):
    return [stream.draw() for _ in range(number)]


def tasks_of(task_ids, indices):
    return Counter(task_ids[index] for index in indices)


@st.composite
def mixtures(draw):
    number = draw(st.integers(1, 6))
    parts = draw(st.lists(st.integers(0, 20), min_size=number, max_size=number))
    assume(sum(parts))
    sizes = draw(st.lists(st.integers(1, 12), min_size=number, max_size=number))
    weights = {f"t{i}": Fraction(part, sum(parts)) for i, part in enumerate(parts)}
    available = sum(size for size, part in zip(sizes, parts, strict=True) if part)
    batch_size = draw(st.integers(1, min(available, 12)))
    return batch_size, weights, {f"t{i}": size for i, size in enumerate(sizes)}


@st.composite
def streams(draw):
    batch_size, weights, sizes = draw(mixtures())
    if draw(st.booleans()):
        weights = "uniform"
        batch_size = min(batch_size, sum(sizes.values()))
    task_ids = draw(st.permutations([task for task, size in sizes.items() for _ in range(size)]))
    seed, shuffle = draw(st.integers(0, 9)), draw(st.booleans())

    def build():
        return TaskBalancedStream(task_ids, batch_size, weights=weights, seed=seed, shuffle=shuffle)

    sizes = {task: sizes[task] for task in dict.fromkeys(task_ids)}  # in the order of the rows
    return task_ids, window_quotas(batch_size, weights, sizes), batch_size, build
