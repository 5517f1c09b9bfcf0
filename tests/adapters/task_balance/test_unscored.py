"""What a batch is without is told of the prompts that are in it, not of verl's choice."""

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.task_balance.world import BATCH, Trainer, World

from verl_ext.adapters.rollout.reference_probability import UNSCORED
from verl_ext.adapters.trainer.reference_probability import note_unscored


class Scored(Trainer):
    """A trainer whose replay buffer tells which responses have no reward."""

    def _init_dataloader(self):
        self.noted = []
        note_unscored(self.replay_buffer, lambda *told: self.noted.append(told))
        super()._init_dataloader()


def lose_a_response(world, uid):
    """The reward of one of a prompt's two sessions cannot be said."""
    del world.tags["train"][f"{uid}_1_0"]
    world.tags.setdefault(UNSCORED, {})[f"{uid}_1"] = {"uid": uid, "outcome": "too_long"}


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_responses_are_missed_of_the_prompts_that_are_trained(use, mode):
    world = use(World(0))
    trainer = Scored(world, mode)
    trainer.prepare_step()
    trainer.global_steps = 2
    trainer.prepare_step()
    for uid in trainer.drawn:
        world.finish(uid)
    # Of one task nothing is old: verl's choice has none of it, and the batch owes some.
    newer = [uid for uid in trainer.drawn[:BATCH] if world.tasks[uid] == "math"]
    for uid in newer:
        world.tags["train"][uid]["global_steps"] = 3
    for uid in trainer.drawn:
        if world.tasks[uid] == "math":
            lose_a_response(world, uid)
    trainer.sample()
    lost = [uid for uid in trainer.trained if world.tasks[uid] == "math"]
    assert len(lost) == 4
    assert trainer.noted == [(["too_long"] * 4, 2 * BATCH - 4)]
    assert all(f"{uid}_1" not in world.tags[UNSCORED] for uid in lost)
