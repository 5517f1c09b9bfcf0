"""A trainer whose stages write what they are told to, on verl's queue of one batch."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorStack
from transfer_queue import KVBatchMeta

from verl_ext.adapters.trainer import finite

KEYS = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
LENGTHS = (3, 2, 4, 1)
NAN, INF = float("nan"), float("inf")


def jagged(rows):
    return torch.nested.as_nested_tensor(
        [torch.as_tensor(row) for row in rows], layout=torch.jagged
    )


class Queue:
    """verl's queue of one batch."""

    def __init__(self):
        self.columns = {
            "prompts": [torch.tensor([104, 105, 106 + n]) for n in range(4)],
            "responses": [torch.arange(97, 97 + n) for n in LENGTHS],
            "response_mask": [torch.ones(n, dtype=torch.long) for n in LENGTHS],
            "rm_scores": [torch.tensor([0.0] * (n - 1) + [float(n % 2)]) for n in LENGTHS],
            "entropy": [torch.ones(n) for n in LENGTHS],
            "uid": ["a", "a", "b", "b"],
            "data_source": ["toy"] * 4,
            "reward_model": [{"ground_truth": "abc", "style": "rule"}] * 4,
        }

    def get(self, keys, partition_id, select_fields):
        rows = [KEYS.index(key) for key in keys]
        found = {}
        for name in select_fields:
            if name in self.columns:
                values = [self.columns[name][row] for row in rows]
                tensors = isinstance(values[0], torch.Tensor)
                found[name] = jagged(values) if tensors else NonTensorStack(*values)
        return TensorDict(found, batch_size=len(rows))

    def write(self, name, values):
        self.columns[name] = [torch.tensor(row) for row in values]


class Base:
    """verl's trainer: each stage writes what it is told to."""

    def __init__(self, config):
        self.config, self.global_steps, self.writes, self.logged = config, 7, {}, {}

    def _stage(self, name, batch):
        for column, values in self.writes.get(name, {}).items():
            self.queue.write(column, values)
        return batch

    def _balance_batch(self, batch, metrics):
        return self._stage("rewards", batch)

    def _compute_old_log_prob(self, batch, metrics):
        return self._stage("log_probs", batch)

    def _compute_ref_log_prob(self, batch, metrics):
        return self._stage("reference", batch)

    def _compute_advantage(self, batch, metrics):
        return self._stage("advantages", batch)

    def _update_actor(self, batch, metrics):
        metrics.update(self.logged)
        return batch


class Trainer(finite.Finite, Base):
    pass


REWARD = """
def score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float("nan") if len(solution_str) == 3 else 1.0}
"""


def batch(partition="train", padding=()):
    tags = [{"is_padding": key in padding} for key in KEYS]
    return KVBatchMeta(keys=list(KEYS), tags=tags, partition_id=partition)


def filled(value, *places):
    """(rows, time) of zeros, but for some places."""
    rows = [[0.0] * n for n in LENGTHS]
    for row, token in places:
        rows[row][token] = value
    return rows


STAGES = {
    "rewards": ("_balance_batch", "rm_scores"),
    "log_probs": ("_compute_old_log_prob", "old_log_probs"),
    "reference": ("_compute_ref_log_prob", "ref_log_prob"),
    "advantages": ("_compute_advantage", "advantages"),
}


def stopped(made, stage, field, values, **how):
    made.writes = {stage: {field: values}}
    with pytest.raises(finite.NotFiniteError) as error:
        getattr(made, STAGES[stage][0])(batch(**how), {})
    return str(error.value)
