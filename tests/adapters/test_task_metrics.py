"""Metrics of each task, on a queue in memory."""

from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.trainer import batch_fields, task_metrics


class Base:
    def _init_dataloader(self):
        self.train_dataset = SimpleNamespace(dataframe=SimpleNamespace(column_names=["task", "x"]))

    def _compute_metrics(self, batch, metrics, **more):
        metrics["verl"] = more["epoch"]


class Trainer(task_metrics.TaskMetrics, Base):
    def __init__(self, **ours):
        self.config = OmegaConf.create({"algorithm": {"verl_ext": ours}})


def nested(*rows):
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


@pytest.fixture
def fields():
    """Task x: one session of two outputs, |A| 2 + 1; task y: one of |A| 1; and padding."""
    return {
        "advantages": nested([1.0, 1.0], [-1.0], [-1.0, 9.0], [0.0]),
        "response_mask": nested([1, 1], [1], [1, 0], [0]),
        "rm_scores": nested([0.0, 5.0], [5.0], [2.0, 0.0], [0.0]),
        "task": NonTensorStack("x", "x", "y", "x"),
    }


@pytest.fixture
def batch(monkeypatch, fields):
    def kv_batch_get(keys, partition_id, select_fields):
        return TensorDict({name: fields[name] for name in select_fields}, batch_size=4)

    monkeypatch.setattr(batch_fields, "tq", SimpleNamespace(kv_batch_get=kv_batch_get))
    tags = [{}, {}, {}, {"is_padding": True}]
    keys = ["a_0_0", "a_0_1", "b_0_0", "pad_0_0"]
    return SimpleNamespace(keys=keys, tags=tags, partition_id="train")


def test_each_task_has_its_reward_its_sessions_and_its_share_of_the_advantage(batch):
    metrics = {}
    Trainer(task_key="task")._compute_metrics(batch, metrics, epoch=0)
    assert metrics == {
        "verl": 0,
        "verl_ext/task/x/advantage_share": pytest.approx(3 / 4),
        "verl_ext/task/y/advantage_share": pytest.approx(1 / 4),
        "verl_ext/task/x/reward": 5.0,
        "verl_ext/task/y/reward": 2.0,
        "verl_ext/task/x/rows": 1.0,
        "verl_ext/task/y/rows": 1.0,
    }


def test_shares_of_what_is_no_number_are_left_out_of_a_run_that_goes_on(batch, fields):
    fields["advantages"] = nested([1.0, float("nan")], [-1.0], [-1.0, 9.0], [0.0])
    metrics = {}
    Trainer(task_key="task", not_finite="report")._compute_metrics(batch, metrics, epoch=0)
    whats = {name.rpartition("/")[2] for name in metrics}
    assert whats == {"verl", "reward", "rows"}
    with pytest.raises(ValueError, match="must be finite"):
        Trainer(task_key="task")._compute_metrics(batch, {}, epoch=0)


def test_without_a_task_key_there_are_none(batch):
    metrics = {}
    Trainer()._compute_metrics(batch, metrics, epoch=0)
    assert metrics == {"verl": 0}


def test_a_misspelt_column_is_found_before_anything_is_generated():
    Trainer(task_key="task")._init_dataloader()
    with pytest.raises(SettingsError, match=r"task_key: no column 'tsk' .*did you mean 'task'"):
        Trainer(task_key="tsk")._init_dataloader()
