"""pass@k of a validation, from the samples verl collects."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from verl_ext.metrics.pass_at_k import pass_at_k_curve


def pass_at_k_metrics(
    data_sources: Sequence[str],
    uids: Sequence[str],
    infos: Mapping[str, Sequence[Any]],
    expected_counts: Mapping[tuple[str, str], int],
) -> dict[str, float]:
    """``verl_ext/val/<data source>/pass@<k>`` for k = 1 .. samples per prompt.

    An outcome is the reward function's ``acc`` where every sample of the data source has one, else
    the reward. A data source whose outcomes are not all 0 or 1 has no pass@k and gets no metric.
    A sample that failed counts as wrong, as in verl's own accuracy.

    Args:
        data_sources: data source of each sample.
        uids: prompt of each sample.
        infos: ``reward`` and further values of each sample.
        expected_counts: samples asked for, by (data source, prompt).

    Returns:
        Metric name -> value in [0, 1].
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, source in enumerate(data_sources):
        rows_of[str(source)].append(row)
    metrics: dict[str, float] = {}
    for source, rows in rows_of.items():
        values = _outcomes(infos, rows)
        if not set(values) <= {0.0, 1.0}:
            continue
        by_prompt: dict[str, list[float]] = defaultdict(list)
        for row, value in zip(rows, values, strict=True):
            by_prompt[str(uids[row])].append(value)
        for (expected_source, uid), count in expected_counts.items():
            if expected_source == source:
                by_prompt[uid] += [0.0] * (count - len(by_prompt[uid]))
        samples = min(len(outcomes) for outcomes in by_prompt.values())
        outcomes = torch.tensor([prompt[:samples] for prompt in by_prompt.values()])
        for k, value in enumerate(pass_at_k_curve(outcomes).tolist(), start=1):
            metrics[f"verl_ext/val/{source}/pass@{k}"] = value
    return metrics


def _outcomes(infos: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> list[float]:
    accuracies: list[Any] = [infos["acc"][row] for row in rows] if "acc" in infos else [None]
    if all(value is not None for value in accuracies):
        return [float(value) for value in accuracies]
    return [float(infos["reward"][row]) for row in rows]
