"""The std filter in verl's own trainers and replay buffers, on a queue in memory: no Ray, no model.

Prompts finish in random order. Nothing waits, so a batch that can never be complete fails the test
instead of hanging it.
"""

import copy
import functools
import random
import statistics
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transfer_queue as tq
import verl  # loads the plugin  # noqa: F401
from adapters.prompt_tags import PromptTags
from omegaconf import open_dict
from tensordict import NonTensorStack
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, get_trainer_cls
from verl.utils import tensordict_utils

from verl_ext.adapters.trainer.resampling import NotEnoughSpreadError

BATCH, POLLS = 4, 2000
WARM = {"warmup_from": 1, "warmup_to": 1, "beta": 1.0, "decay": 0.5}
# The rewards of the n-th prompt's two responses are 0 and this, times √2: the standard deviation.
SPREADS = [1.0, 0.2, 3.0, 0.6, 0.0, 2.0, 0.9, 1.5]


class World(PromptTags):
    """TransferQueue, the data and the agent loops: prompts finish whenever verl would wait."""

    def __init__(self, seed=0, spreads=SPREADS, failing=(), unscored=(), at_once=0):
        self.rng, self.spreads, self.failing = random.Random(seed), list(spreads), set(failing)
        self.unscored, self.at_once = set(unscored), at_once
        super().__init__()
        self.scores, self.tasks, self.position, self.asked, self.polls = {}, {}, {}, 0, 0

    def kv_batch_get(self, keys, partition_id, select_fields):
        columns = {
            "rm_scores": [self.scores[key] for key in keys],
            "data_source": NonTensorStack(*(self.tasks[key.split("_")[0]] for key in keys)),
        }
        return {name: columns[name] for name in select_fields}

    def prompts(self, count):
        """The next prompts of the data, in a fixed order, under names without one."""
        uids = [f"{self.rng.getrandbits(40):x}" for _ in range(count)]
        for uid in uids:
            self.position[uid] = self.asked
            self.tasks[uid] = "odd" if self.asked % 2 else "even"
            self.asked += 1
        return tensordict_utils.get_tensordict({"uid": np.array(uids, dtype=object)})

    def generate_sequences(self, batch):
        """Nothing happens before verl waits."""

    def poll(self, partition_id, last_debug_time):
        self.polls += 1
        assert self.polls < POLLS, "the batch never becomes complete"
        tags = self.tags["train"]
        waiting = [k for k, tag in tags.items() if tag.get("status") in ("pending", "running")]
        count = self.at_once or self.rng.randint(1, 3)
        for uid in self.rng.sample(waiting, min(len(waiting), count)):
            self.finish(uid)
        return last_debug_time

    def finish(self, uid):
        tags, number = self.tags["train"], self.position[uid]
        failed = number in self.failing
        tags[uid]["status"] = "failure" if failed else "finished"
        if number in self.unscored:
            return
        high = self.spreads[number % len(self.spreads)] * 2**0.5
        for session, reward in enumerate([0.0, high][: 1 if failed else 2]):
            # A session in two outputs; verl copies the session's score to each of them.
            for output in range(1 + session):
                key = f"{uid}_{session}_{output}"
                tags[key] = {"global_steps": 1, "seq_len": 1}
                self.scores[key] = torch.tensor([0.0, reward], dtype=torch.float64)

    def stds(self, batch):
        """The standard deviations of a batch's prompts."""
        uids = dict.fromkeys(key.split("_")[0] for key in batch.keys)
        return [self.spreads[self.position[uid] % len(self.spreads)] for uid in uids]


@functools.cache
def composed():
    """The overlay's configuration; composing takes seconds."""
    from hydra import compose, initialize_config_module

    overrides = ["+paper=std_filter", "+scale=cpu", "algorithm.adv_estimator=grpo"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=overrides)


def configured(deterministic, settings):
    config = copy.deepcopy(composed())
    with open_dict(config):
        config.data.train_batch_size = BATCH
        config.trainer.v1.separate_async.parameter_sync_step = 2
        config.actor_rollout_ref.rollout.nnodes = 1
        config.actor_rollout_ref.rollout.checkpoint_engine.backend = "nccl"
        config.actor_rollout_ref.actor.ppo_mini_batch_size = BATCH // 2
        config.algorithm.verl_ext.deterministic = deterministic
        config.algorithm.verl_ext.masks.std_filter.update(WARM | settings)
    return config


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


def train(trainer, steps):
    """The metrics of some steps, ours and those of verl's filter."""
    found = []
    for _ in range(steps):
        metrics = {}
        trainer.step(metrics, {})
        found.append(metrics)
        trainer.global_steps += 1
    return found


def ours(metrics):
    start = "verl_ext/std_filter/"
    return {name.removeprefix(start): v for name, v in metrics.items() if name.startswith(start)}


def test_one_key_makes_verl_filter_and_fetch_prompts_one_by_one(made):
    trainer = made(World())
    buffer = trainer.replay_buffer
    assert trainer.config.algorithm.filter_groups.enable
    assert buffer.filter_groups_metric == "reward"
    assert (buffer.gen_batch_size, buffer.train_batch_size) == (1, BATCH)
    masked = made(World(), mode="mask")
    assert not masked.config.algorithm.filter_groups.enable
    assert masked.replay_buffer.filter_groups_metric is None


def test_prompts_below_the_threshold_are_replaced_until_the_batch_is_full(made):
    # 1, .2, 3 and .6 have the mean 1.2, which is the threshold of step 2 (β = 1). Of 0, 2, .9 and
    # 1.5 two are below it: verl asks for four more, 1, .2, 3 and .6, of which 3 passes; three are
    # below, so six more, four at a time: 0, 2, .9, 1.5. The oldest that pass fill the batch.
    trainer = made(World(), "sync", deterministic=True)
    first, second = train(trainer, 2)
    assert trainer.sampled[0] == [1.0, 0.2, 3.0, 0.6]
    assert ours(first) == {
        "threshold": 0.0, "kept": 1.0, "mean_std": pytest.approx(1.2), "gen_batches": 1.0,
    }  # fmt: skip
    assert trainer.sampled[1] == [2.0, 1.5, 3.0, 2.0]
    seen = [0, 2, 0.9, 1.5, 1, 0.2, 3, 0.6, 0, 2, 0.9, 1.5]
    assert ours(second) == {
        "threshold": pytest.approx(1.2),
        "kept": pytest.approx(5 / 12),
        "mean_std": pytest.approx(statistics.fmean(seen)),
        "gen_batches": 12 / 4,
    }
    assert second["training/filter_groups/evicted_samples"] == 7
    assert second["training/filter_groups/discarded_surplus_samples"] == 1
    # Dropped and surplus prompts moved the average too, at d = .5.
    threshold = trainer.ext_masks.resampler.threshold
    assert threshold == pytest.approx((1.2 + statistics.fmean(seen)) / 2)


@pytest.mark.parametrize("seed", range(6))
def test_a_deterministic_run_does_not_depend_on_who_finishes_when(made, seed):
    runs = []
    for draw in (0, seed + 1):
        trainer = made(World(draw), "sync", deterministic=True)
        runs.append(([ours(m) for m in train(trainer, 5)], trainer.sampled))
    assert runs[0] == runs[1]


def test_places_that_become_free_at_another_time_are_not_filled_by_others(made):
    """Three of four are dropped, so verl owes six prompts, and four may be under way."""
    spreads = [2.0, 2.0, 2.0, 2.0, 0.5, 0.5, 0.5, 3.0, 3.0, 3.0, 3.0, 3.0]
    runs = []
    for at_once in (1, 2, 100):
        world = World(spreads=spreads, at_once=at_once)
        trainer = made(world, "sync", deterministic=True)
        runs.append(([ours(m) for m in train(trainer, 4)], trainer.sampled, world.asked))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
@pytest.mark.parametrize("seed", range(3))
def test_every_batch_is_full_and_of_prompts_that_passed_when_they_were_judged(made, mode, seed):
    world = World(seed)
    trainer = made(world, mode, decay=1.0)  # the threshold stays that of the warm-up
    updates = 2 if mode == "separate_async" else 1
    found = train(trainer, 6)
    assert [len(stds) for stds in trainer.sampled] == [BATCH // updates] * 6 * updates
    threshold = ours(found[1])["threshold"]
    assert threshold > 0
    for metrics in found[1:]:
        assert ours(metrics)["threshold"] == threshold
    for stds in trainer.sampled[2 * updates :]:
        assert min(stds) >= threshold
    assert (
        sum(metrics["verl_ext/std_filter/gen_batches"] for metrics in found) * BATCH <= world.asked
    )


@pytest.mark.parametrize("mode", ["colocate_async", "separate_async"])
def test_a_prompt_is_judged_once_however_often_it_is_looked_at(made, mode):
    trainer = made(World(), mode)
    world, buffer = trainer.agent_loop_manager, trainer.replay_buffer
    trainer._submit_batch_to_rollout(world.prompts(8))
    for uid in list(world.position):
        world.finish(uid)
    for _ in range(3):
        assert buffer.get_sampleable_count(1, "train") == 8
    first, second = train(trainer, 2)
    assert ours(first)["gen_batches"] == 2.0
    assert ours(first)["mean_std"] == pytest.approx(statistics.fmean(SPREADS))
    # The other four were judged then: they are trained on, .0 too, and count nowhere again.
    assert ours(second) == {"gen_batches": 0.0}
    assert sorted(std for stds in trainer.sampled for std in stds) == sorted(SPREADS)


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
@pytest.mark.parametrize("before", [1, 3])
def test_a_resumed_run_continues_like_the_one_that_was_not_stopped(made, mode, before):
    world = World(2)
    first = made(world, mode)
    train(first, before)
    at_checkpoint, state = copy.deepcopy(world), copy.deepcopy(first.ext_state())
    expected = [ours(metrics) for metrics in train(first, 4)], first.sampled[before:]

    second = made(at_checkpoint, mode)
    second.global_steps = before + 1
    assert not any("std_filter" in what for what in second.ext_restore(state))
    assert ([ours(metrics) for metrics in train(second, 4)], second.sampled) == expected


def test_a_checkpoint_without_the_filter_warms_up_anew_and_says_so(made, capsys):
    trainer = made(World(), "sync", warmup_to=2)
    trainer.global_steps = 51
    assert "mask std_filter" in trainer.ext_restore({"masks": {}})
    found = [ours(metrics) for metrics in train(trainer, 3)]
    assert [step["threshold"] > 0 for step in found] == [False, False, True]
    said = capsys.readouterr().out
    assert "[verl_ext] step 51: std_filter: no prompt is dropped up to step 52" in said
    assert "[verl_ext] step 52: std_filter: from now on" in said


def test_a_step_that_too_few_pass_stops_the_run_in_words(made):
    spreads = [*[2.0] * BATCH, 2.0, *[0.5] * 63]
    trainer = made(World(spreads=spreads), "sync", max_gen_batches=3)
    train(trainer, 1)
    expected = (
        r"masks\.std_filter: 1 of 1\d prompts pass, a batch needs 4, and max_gen_batches=3 .*"
        r"standard deviation of 2, which is beta=1 times.* Lower beta; .*mode=mask; or raise max"
    )
    with pytest.raises(NotEnoughSpreadError, match=expected):
        train(trainer, 1)


def test_a_batch_that_is_full_in_time_does_not(made):
    # Judged: 4, of which three are dropped, then four at a time: in the fourth round three pass.
    spreads = [*[2.0] * BATCH, *[2.0, 0.5, 0.5, 0.5], *[0.5] * 6, *[0.5] * 3, *[2.0] * 9]
    trainer = made(World(spreads=spreads), "sync", deterministic=True, max_gen_batches=3.5)
    assert ours(train(trainer, 2)[1])["gen_batches"] == 16 / 4  # more than 3.5, and four passed
    trainer = made(World(spreads=spreads), "sync", deterministic=True, max_gen_batches=2.5)
    with pytest.raises(NotEnoughSpreadError, match=r"1 of 12 prompts"):
        train(trainer, 2)


@pytest.mark.parametrize(
    ("passed", "failed", "stops"), [(4, 0, False), (3, 1, False), (3, 0, True)]
)
def test_a_batch_is_full_of_what_passed_and_what_cannot_be_judged(made, passed, failed, stops):
    trainer = made(World(), max_gen_batches=2)
    trainer.ext_masks.resampler.judged = {number: number < passed for number in range(8)}
    trainer.replay_buffer.failure_keys["train"] = set(range(failed))
    with pytest.raises(NotEnoughSpreadError) if stops else nullcontext():
        trainer.ext_finished._require_enough()


def test_a_prompt_that_waits_in_a_checkpoint_is_not_judged_again(made):
    world = World()
    first = made(world, "colocate_async")
    first._submit_batch_to_rollout(world.prompts(8))
    for uid in list(world.position):
        world.finish(uid)
    train(first, 1)
    second = made(world, "colocate_async")
    second.global_steps = 2
    second.ext_restore(copy.deepcopy(first.ext_state()))
    assert ours(train(second, 1)[0]) == {"gen_batches": 0.0}


def test_a_prompt_with_a_failed_response_is_verls_business(made):
    trainer = made(World(failing=[5]), "sync", deterministic=True)
    _, second = train(trainer, 2)
    seen = [0, 0.9, 1.5, 1, 0.2, 3, 0.6]  # the sixth prompt, of 2, is trained on and not judged
    assert trainer.sampled[1][0] == 2.0
    assert ours(second)["mean_std"] != pytest.approx(statistics.fmean([*seen, 2]))


def test_prompts_without_any_reward_are_replaced_and_leave_the_average_alone(made):
    trainer = made(World(unscored=[1, 2]), "sync", deterministic=True)
    first, _ = train(trainer, 2)
    # Two of four are without; verl asks for four more: .0, 2, .9 and 1.5.
    assert trainer.sampled[0] == [1.0, 0.6, 0.0, 2.0]
    assert ours(first)["kept"] == 6 / 8
    assert ours(first)["mean_std"] == pytest.approx(statistics.fmean([1, 0.6, 0, 2, 0.9, 1.5]))


def test_a_run_in_which_no_prompt_has_a_reward_stops_in_words(made):
    trainer = made(World(unscored=range(1000)), "sync", max_gen_batches=2)
    with pytest.raises(NotEnoughSpreadError, match=r"0 of .* prompts pass"):
        train(trainer, 1)


def test_the_tasks_of_multipliers_come_from_the_queue(made):
    # In step 2 the threshold is 1.2. Tripled, .9 passes (2.7), and .5 of 2 and 1.5 do not.
    multipliers = {"even": 3.0, "odd": 0.5}
    trainer = made(World(), "sync", deterministic=True, task_multipliers=multipliers)
    train(trainer, 2)
    assert trainer.sampled[1][0] == 0.9
    assert {2.0, 1.5, 0.0, 0.2, 0.6}.isdisjoint(trainer.sampled[1])


def test_the_mean_rewards_of_dropped_prompts_reach_verls_table(made):
    trainer = made(World(), "sync", deterministic=True)
    _, second = train(trainer, 2)
    counts = second["_dapo_filtered_reward_counts"]
    # 0, .9, 1, .2, .6 and 0, .9: half of that times √2, in hundredths.
    assert counts == {0.0: 2, 0.64: 2, 0.71: 1, 0.14: 1, 0.42: 1}


def test_a_validation_is_not_filtered(made):
    trainer = made(World())
    train(trainer, 1)
    world = trainer.agent_loop_manager
    world.tags["val"] = {
        "v": {"is_prompt": True, "status": "finished", "global_steps": 1},
        "v_0_0": {"global_steps": 1},
    }
    batch, _ = trainer.replay_buffer.sample(1, "val", 1)
    assert batch.keys == ["v_0_0"]
    assert trainer.ext_masks.resampler.judged == {}
    trainer.ext_finished.dull = {"dull": 0.0}
    trainer.replay_buffer.finished_keys["train"] = {"dull"}
    assert trainer.replay_buffer._dapo_filtered_keys("train") == ({"dull"}, Counter([0.0]))
    assert trainer.replay_buffer._dapo_filtered_keys("val") == (set(), Counter())
