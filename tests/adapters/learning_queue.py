"""verl's own advantage stage with ours around it, on a queue in memory: no Ray, no model."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import trainer_base

from verl_ext.adapters.trainer import batch_fields, learning


class Queue:
    """Just enough of TransferQueue: rows by key, fields by name, missing fields left out."""

    def __init__(self, rows):
        self.rows = rows

    def kv_batch_get(self, keys, partition_id, select_fields):
        there = [name for name in select_fields if name in self.rows[keys[0]]]
        return TensorDict({name: self.column(keys, name) for name in there}, batch_size=len(keys))

    def column(self, keys, name):
        values = [self.rows[key][name] for key in keys]
        if isinstance(values[0], torch.Tensor):
            return torch.nested.as_nested_tensor(values, layout=torch.jagged)
        return NonTensorStack(*values)

    def kv_batch_put(self, keys, partition_id, fields, tags=None):
        for name in fields.keys():  # noqa: SIM118
            for key, value in zip(keys, fields[name].unbind(), strict=True):
                self.rows[key][name] = value
        tags = [self.rows[key]["tag"] for key in keys]
        return KVBatchMeta(keys=list(keys), tags=tags, partition_id="train")


class Base:
    """verl's advantage stage; the update is only recorded."""

    _compute_advantage = trainer_base.PPOTrainer._compute_advantage

    def __init__(self, config):
        self.config, self.global_steps, self.updated = config, 1, []
        self.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0]})

    def _update_actor(self, batch, metrics):
        self.updated.append(list(batch.keys))

    def step(self, metrics, timing_raw):
        return None


class Trainer(learning.Learning, Base):
    pass


def row(uid, task, reward, response, **more):
    """A row as the agent loops leave it; ``response`` is its mask."""
    mask = torch.tensor(response)
    score = torch.zeros(len(response))
    score[-1] = reward
    zeros = torch.zeros(len(response))
    return {
        "uid": uid,
        "data_source": task,
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": score,
        "old_log_probs": zeros,
        "rollout_log_probs": zeros,
        "entropy": torch.full((len(response),), 0.5),
        "tag": {"seq_len": len(response) + 3},
    } | more


def padding(like):
    """A row as verl appends it: the fields of another one, nothing sampled, nothing scored."""
    empty = row("pad0", like["data_source"], 0.0, [0])
    return like | empty | {"tag": {"seq_len": 128, "is_padding": True}}


def batch_of_three_tasks():
    """Methods.md's first vector with responses of different lengths, and a tool's answer."""
    rewards = [1, 0, 0, 1, 0.9, 0.7, 0.8, 0.8, 1, 1, 1, 1]
    lengths = [2, 3, 1, 4, 2, 2, 3, 1, 2, 4, 1, 2]
    rows = {}
    for place, (uid, reward, length) in enumerate(
        zip("aaaabbbbcccc", rewards, lengths, strict=True)
    ):
        task = "mc" if uid == "a" else "qa"
        response = [1, 0, 1, 1][:length] if length == 4 else [1] * length
        rows[f"{uid}_{place % 4}_0"] = row(uid, task, reward, response)
    return rows


MC, QA = 0.57735026919, 0.11952286094  # unbiased deviations of the two tasks
EXPECTED = {
    "a_0_0": 0.5 / MC, "a_1_0": -0.5 / MC, "a_2_0": -0.5 / MC, "a_3_0": 0.5 / MC,
    "b_0_0": 0.1 / QA, "b_1_0": -0.1 / QA, "b_2_0": 0.0, "b_3_0": 0.0,
    "c_0_0": 0.0, "c_1_0": 0.0, "c_2_0": 0.0, "c_3_0": 0.0,
}  # fmt: skip


def train(
    monkeypatch, rows, order=None, estimator="verl_ext.task_norm", rest=None, state=None, **ours
):
    """Runs the advantage stage; returns the trainer, the queue and the metrics."""
    config = OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": estimator,
                "use_kl_in_reward": False,
                "gamma": 1.0,
                "lam": 1.0,
                "verl_ext": ours,
                **(rest or {}),
            },
            "actor_rollout_ref": {
                "actor": {"ppo_mini_batch_size": 1},
                "rollout": {"n": 1},
            },
        }
    )
    queue = Queue({key: dict(fields) for key, fields in rows.items()})
    monkeypatch.setattr(batch_fields, "tq", queue)
    monkeypatch.setattr(trainer_base, "tq", queue)
    keys = order or list(rows)
    batch = KVBatchMeta(
        keys=keys, tags=[queue.rows[key]["tag"] for key in keys], partition_id="train"
    )
    made, metrics = Trainer(config), {}
    made.ext_restore(state or {})
    batch = made._compute_advantage(batch, metrics)
    made.of_critic = {key: dict(fields) for key, fields in queue.rows.items()}  # its turn is now
    made._update_actor(batch, metrics)
    return made, queue.rows, metrics


def scores(rows):
    """Each row's advantage, which all its sampled tokens share; masked tokens have none."""
    result = {}
    for key, fields in rows.items():
        sampled = fields["response_mask"].bool()
        assert not fields["advantages"][~sampled].any()
        values = fields["advantages"][sampled].unique().tolist() or [0.0]
        assert len(values) == 1
        result[key] = values[0]
    return result


def approximately(expected):
    return {key: pytest.approx(value, abs=2e-5) for key, value in expected.items()}
