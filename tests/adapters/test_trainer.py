"""The mixin's stages on a queue in memory: no Ray, no model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls

from verl_ext.adapters import masks, trainer
from verl_ext.adapters.names import STOCK_MODES
from verl_ext.adapters.rollout import workers
from verl_ext.adapters.trainer import batch_fields


def nested(rows, dtype=torch.float32):
    return torch.nested.as_nested_tensor(
        [torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged
    )


class Queue:
    """Just enough of TransferQueue: fields by name, rows in key order."""

    def __init__(self, keys, **fields):
        self.keys, self.fields, self.puts = keys, fields, []

    def kv_batch_get(self, keys, partition_id, select_fields):
        assert list(keys) == self.keys
        return TensorDict({n: self.fields[n] for n in select_fields}, batch_size=len(keys))

    def kv_batch_put(self, keys, partition_id, fields, tags=None):
        self.puts.append(set(fields.keys()))
        self.fields.update({name: fields[name] for name in fields.keys()})  # noqa: SIM118
        # As verl's: with the tags that are kept beside the fields.
        lengths = [len(row) for row in self.fields["advantages"].unbind()]
        return KVBatchMeta(
            keys=list(keys), tags=[{"seq_len": n} for n in lengths], partition_id="p"
        )


class Base:
    """Records what verl's stages would be asked to do."""

    def __init__(self, config):
        self.config, self.global_steps, self.updated = config, 3, []
        self.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0, 1]})

    def _compute_advantage(self, batch, metrics):
        return batch

    def _update_actor(self, batch, metrics):
        self.updated.append(list(batch.keys))
        return batch

    def _build_replay_buffer(self):
        return SimpleNamespace(
            poll_interval=2.0, _sync_metadata_from_transfer_queue=print, sample=print
        )

    def _val_metrics_update(self, *args, expected_acc_counts=None):
        return {"verl": 1.0}


class Trainer(trainer.VerlExtTrainer, Base):
    base_mode = "sync"


def make(monkeypatch, rows, chosen=("zero_advantage",), mini_batch=2):
    config = OmegaConf.create(
        {
            "trainer": {
                "v1": {
                    "trainer_mode": "verl_ext.sync",
                    "sampler": {"sampler_kwargs": {"poll_interval": 0.1}},
                }
            },
            "algorithm": {
                "adv_estimator": "grpo",
                "verl_ext": {"masks": {name: {} for name in chosen}},
            },
            "actor_rollout_ref": {
                "actor": {"ppo_mini_batch_size": mini_batch},
                "rollout": {"n": 1},
            },
        }
    )
    keys = [f"u{i}_0_0" for i in range(len(rows))]
    queue = Queue(
        keys,
        advantages=nested(rows),
        response_mask=nested([[1] * len(row) for row in rows], torch.int64),
    )
    monkeypatch.setattr(batch_fields, "tq", queue)
    batch = KVBatchMeta(keys=keys, tags=[{"seq_len": len(row)} for row in rows], partition_id="p")
    return Trainer(config), queue, batch


@pytest.mark.parametrize("mode", STOCK_MODES)
def test_each_of_verls_trainers_has_one_of_ours_that_gives_its_name_back(mode):
    ours, verls = get_trainer_cls(f"verl_ext.{mode}"), get_trainer_cls(mode)
    assert issubclass(ours, verls)
    assert issubclass(ours, trainer.VerlExtTrainer)
    assert ours.base_mode == mode


def test_the_mode_that_verl_compares_is_its_own(monkeypatch):
    made, _, _ = make(monkeypatch, [[1.0]])
    assert made.config.trainer.v1.trainer_mode == "sync"


def test_the_poll_interval_reaches_the_replay_buffer(monkeypatch):
    made, _, _ = make(monkeypatch, [[1.0]])
    assert made._build_replay_buffer().poll_interval == 0.1


def test_masks_write_response_mask_and_loss_mask_together(monkeypatch):
    made, queue, batch = make(monkeypatch, [[1.0, 1.0], [0.0, 0.0, 0.0], [2.0]])
    metrics = {}
    batch = made._compute_advantage(batch, metrics)
    made._update_actor(batch, dict(metrics))
    # Between the two a critic learns, from all tokens.
    assert queue.puts == [{"advantages"}, {"response_mask", "loss_mask"}]
    for name in ("response_mask", "loss_mask"):
        assert [row.tolist() for row in queue.fields[name].unbind()] == [[1, 1], [0, 0, 0], [1]]
    assert [row.tolist() for row in queue.fields["advantages"].unbind()] == [
        [1.0, 1.0],
        [0.0, 0.0, 0.0],
        [2.0],
    ]
    assert metrics == {"verl_ext/zero_advantage/kept_share": pytest.approx(3 / 6)}


def test_the_update_gets_the_rows_that_teach_and_the_batch_stays_whole(monkeypatch):
    made, _, batch = make(monkeypatch, [[1.0], [0.0], [2.0], [0.0]])
    metrics = {}
    batch = made._compute_advantage(batch, metrics)
    returned = made._update_actor(batch, metrics)
    assert [sorted(keys) for keys in made.updated] == [["u0_0_0", "u2_0_0"]]
    assert len(returned) == 4  # metrics and the clean-up of the queue need every row
    assert metrics["verl_ext/skipped_update"] == 0.0


def test_a_step_with_nothing_to_learn_from_is_skipped_and_said(monkeypatch, capsys):
    made, queue, batch = make(monkeypatch, [[0.0, 0.0], [0.0]])
    metrics = {}
    made._update_actor(made._compute_advantage(batch, metrics), metrics)
    assert made.updated == []
    assert queue.puts == []  # an empty mask would break verl's metrics
    assert metrics["verl_ext/skipped_update"] == 1.0
    assert "step 3: nothing left to learn from" in capsys.readouterr().out


def test_without_masks_nothing_is_touched(monkeypatch):
    made, queue, batch = make(monkeypatch, [[0.0], [1.0]], chosen=())
    metrics = {}
    made._update_actor(made._compute_advantage(batch, metrics), metrics)
    assert made.updated == [["u0_0_0", "u1_0_0"]]
    assert (queue.puts, metrics) == ([], {})


def test_validation_gains_pass_at_k(monkeypatch):
    made, _, _ = make(monkeypatch, [[1.0]])
    metrics = made._val_metrics_update(["d"], ["u"], {"reward": [1.0]}, [2])
    assert metrics == {"verl": 1.0, "verl_ext/val/d/pass@1": 1.0}


def test_masked_update_equals_the_update_on_the_shortened_batch():
    """verl's token mean over the masked batch is the token mean of the rows that stay."""
    from verl.trainer.ppo.core_algos import agg_loss

    generator = torch.Generator().manual_seed(0)
    loss = torch.randn(4, 3, generator=generator)
    advantages = torch.tensor([[1.0], [0.0], [1.0], [0.0]]).expand(4, 3)
    sampled = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]])
    keep = masks.MaskChain({"zero_advantage": {}})(advantages, sampled, {}).counted
    masked = agg_loss(loss, keep.float(), "token-mean", 1, int(keep.sum()))
    rows = [0, 2]
    shortened = agg_loss(
        loss[rows], sampled[rows].float(), "token-mean", 1, int(sampled[rows].sum())
    )
    assert torch.allclose(masked, shortened)
    whole = agg_loss(loss * (advantages != 0), sampled.float(), "token-mean", 1, int(sampled.sum()))
    assert not torch.allclose(masked, whole)  # the denominator is what the mask is for


def test_rows_of_two_ranks_carry_like_loads(monkeypatch):
    rows = [[1.0] * n for n in (8, 1, 7, 2, 6, 3)] + [[0.0] * 2] * 2
    made, _, batch = make(monkeypatch, rows, mini_batch=2)
    metrics = {}
    made._update_actor(made._compute_advantage(batch, metrics), metrics)
    (keys,) = made.updated
    lengths = [len(rows[int(key[1])]) for key in keys]
    assert np.isclose(sum(lengths[:3]), sum(lengths[3:]), atol=3)


def test_the_stages_of_a_trainer_come_before_verls_class():
    for mode in STOCK_MODES:
        order = get_trainer_cls(f"verl_ext.{mode}").__mro__
        assert order.index(trainer.VerlExtTrainer) < order.index(get_trainer_cls(mode))


@pytest.mark.parametrize(
    "made_of_parts", [trainer.VerlExtTrainer, workers.RolloutWorker, workers.RolloutManager]
)
def test_no_two_parts_of_a_class_use_one_private_name(made_of_parts):
    known = {}
    for part in made_of_parts.__mro__:
        for name, value in vars(part).items():
            if name.startswith("_ext_") and part.__module__.startswith("verl_ext."):
                before = known.setdefault(name, value)
                # One that calls super() knows of the other.
                assert before is value or "__class__" in before.__code__.co_freevars, name
