"""The fixture of these tests."""

import pytest
import transfer_queue as tq
from adapters.resampling.world import BATCH, configured
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, get_trainer_cls


@pytest.fixture
def made(monkeypatch):
    """A trainer of ours, made by verl's own __init__, over a world."""

    def make(world, trainer_mode="sync", *, deterministic=False, **settings):
        for name in ("kv_list", "kv_batch_put", "kv_clear", "kv_batch_get"):
            monkeypatch.setattr(tq, name, getattr(world, name))
        trainer_class = get_trainer_cls(f"verl_ext.{trainer_mode}")
        monkeypatch.setattr(trainer_class, "_next_train_batch", lambda _, n=BATCH: world.prompts(n))
        trainer = trainer_class(configured(deterministic, settings))
        trainer.agent_loop_manager = world
        trainer.replay_buffer._wait_for_next_poll = world.poll
        trainer.global_steps, trainer.sampled = 1, []
        trainer.current_mode = None  # separate_async: the devices are not lent to rollouts
        return trainer

    def sample_alone(self, metrics, timing_raw, batch_size):
        """As much of verl's update as this is about."""
        batch, found = self.replay_buffer.sample(self.global_steps, "train", batch_size)
        self.sampled.append(self.agent_loop_manager.stds(batch))
        tq.kv_clear(keys=batch.keys, partition_id="train")
        metrics.update(found)
        return batch

    monkeypatch.setattr(PPOTrainer, "_step_once", sample_alone)
    monkeypatch.setattr(
        PPOTrainer, "prepare_step", lambda self: self._add_batch_to_generate() or {}
    )
    return make
