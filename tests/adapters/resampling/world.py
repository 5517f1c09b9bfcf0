"""The std filter in verl's own trainers and replay buffers, on a queue in memory: no Ray, no model.

Prompts finish in random order. Nothing waits, so a batch that can never be complete fails the test
instead of hanging it.
"""

import copy
import functools
import random

import numpy as np
import torch
from adapters.prompt_tags import PromptTags
from omegaconf import open_dict
from tensordict import NonTensorStack
from verl.utils import tensordict_utils

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
