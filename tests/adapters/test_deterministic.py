"""Seeds and orders that chance does not decide: no Ray, no server."""

import asyncio
import random
from collections import Counter

import numpy as np
import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import replay_buffer
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils import tensordict_utils
from verl.workers.rollout.llm_server import LLMServerClient

from verl_ext.adapters.rollout import seeds as of_requests
from verl_ext.adapters.rollout import workers
from verl_ext.adapters.trainer import deterministic


def prompts(indices, step, validate=False):
    count = len(indices)
    batch = tensordict_utils.get_tensordict(
        {
            "uid": np.array([f"{random.random()}" for _ in range(count)], dtype=object),
            "index": np.array(indices, dtype=object),
        }
    )
    tensordict_utils.assign_non_tensor_data(batch, "global_steps", step)
    if validate:
        tensordict_utils.assign_non_tensor_data(batch, "validate", True)
    return batch


@pytest.fixture
def manager(monkeypatch):
    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda self, config: None)
    monkeypatch.setattr(AgentLoopManagerTQ, "generate_sequences", lambda self, batch: None)

    def make(seed=1):
        made = workers.RolloutManager(None)
        made.config = OmegaConf.create(
            {"data": {"seed": seed}, "algorithm": {"verl_ext": {"deterministic": seed is not None}}}
        )
        return made

    return make


def seeds(manager, *args, **kwargs):
    batch = prompts(*args, **kwargs)
    manager.generate_sequences(batch)
    return batch[of_requests.SEED].tolist()


def test_seeds_depend_on_run_step_index_and_occasion_and_on_nothing_else(manager):
    first = seeds(manager(), [5, 7], step=3)
    assert seeds(manager(), [5, 7], step=3) == first  # the ids of the prompts were others
    assert seeds(manager(), [7, 5], step=3) == first[::-1]
    different = [
        seeds(manager(seed=2), [5, 7], step=3),
        seeds(manager(), [5, 7], step=4),
        seeds(manager(), [6, 8], step=3),
        seeds(manager(), [5, 7], step=3, validate=True),
    ]
    assert len({seed for pair in [first, *different] for seed in pair}) == 10


def test_a_prompt_asked_twice_in_a_step_gets_two_seeds(manager):
    made = manager()
    once, again = seeds(made, [0, 0], step=1), seeds(made, [0], step=1)
    assert len({*once, *again}) == 3
    assert seeds(manager(), [0, 0, 0], step=1) == once + again


def test_a_run_that_asks_for_no_seeds_gets_none(manager):
    batch = prompts([5], step=1)
    manager(seed=None).generate_sequences(batch)
    assert of_requests.SEED not in batch


def test_positions_follow_the_order_of_asking_and_begin_anew_with_the_step(manager):
    made = manager()
    for step in (1, 2):
        batch = prompts([4, 2, 9], step=step)
        made.generate_sequences(batch)
        assert [made.position[uid] for uid in batch["uid"]] == [0, 1, 2]
    assert len(made.position) == 3


def test_every_session_gets_a_seed_of_its_own(monkeypatch):
    base = AgentLoopWorkerTQ.__ray_actor_class__
    asked = []

    async def runs(self, sampling_params, trajectory, **kwargs):
        asked.append((sampling_params, kwargs))

    monkeypatch.setattr(base.__mro__[1], "_run_agent_loop", runs)
    worker = workers.RolloutWorker.__new__(workers.RolloutWorker)
    shared = {"temperature": 1.0}
    asyncio.run(worker._run_agent_loop(shared, {}, session_id=0, uid="u"))
    assert asked.pop() == (shared, {"session_id": 0, "uid": "u"})
    for session in (0, 1):
        kwargs = {of_requests.SEED: torch.tensor(12), "session_id": session, "uid": "u"}
        asyncio.run(worker._run_agent_loop(shared, {}, **kwargs))
    assert len({params["seed"] for params, _ in asked}) == 2
    assert all(set(kwargs) == {"session_id", "uid"} for _, kwargs in asked)
    assert shared == {"temperature": 1.0}


def test_turns_of_a_session_differ_and_requests_without_a_seed_stay_without(monkeypatch):
    asked = []

    async def generate(self, request_id, *, prompt_ids, sampling_params, **kwargs):
        asked.append(sampling_params.get("seed"))

    monkeypatch.setattr(LLMServerClient, "generate", generate)
    client = of_requests.SeededClient.__new__(of_requests.SeededClient)

    def ask(prompt, **params):
        asyncio.run(client.generate("r", prompt_ids=prompt, sampling_params=params))

    ask([1, 2], seed=9)
    ask([1, 2, 3, 4], seed=9)
    ask([1, 2], seed=9)
    ask([1, 2])
    assert asked[0] == asked[2] != asked[1]
    assert asked[3] is None


class Queue:
    """TransferQueue's tags, with rows that arrive in any order."""

    def __init__(self):
        self.items, self.rewards = {}, {}

    def kv_list(self):
        return {"train": dict(self.items)}

    def kv_clear(self, partition_id, keys):
        for key in keys:
            self.items.pop(key, None)

    def kv_batch_get(self, keys, partition_id, select_fields):
        return {"rm_scores": [torch.tensor([self.rewards[key]]) for key in keys]}


class Rollouts:
    """Prompts that finish in random order while the buffer polls; rewards by prompt number."""

    def __init__(self, queue, draw):
        self.queue, self.draw, self.waiting, self.asked = queue, draw, [], 0

    def ask(self, count):
        for _ in range(count):
            uid = f"{self.asked:03d}"
            self.asked += 1
            self.queue.items[uid] = {"is_prompt": True, "status": "running", "global_steps": 1}
            self.waiting.append(uid)

    def finish_some(self, _):
        for _ in range(self.draw.randint(0, len(self.waiting))):
            uid = self.waiting.pop(self.draw.randrange(len(self.waiting)))
            for session in self.draw.sample(range(3), 3):
                key = f"{uid}_{session}_0"
                dull = int(uid) % 3 == 0  # every third prompt has equal rewards
                self.queue.rewards[key] = 1.0 if dull else float(session)
                self.queue.items[key] = {"seq_len": 1}
            self.queue.items[uid] = self.queue.items.pop(uid) | {"status": "finished"}


def sampled(monkeypatch, seed, ordered=True, filtered=True):
    queue, draw = Queue(), random.Random(seed)
    rollouts = Rollouts(queue, draw)
    monkeypatch.setattr(replay_buffer, "tq", queue)
    monkeypatch.setattr(replay_buffer.time, "sleep", rollouts.finish_some)
    buffer = replay_buffer.ReplayBuffer(
        trainer_mode="sync",
        trainer_config={},
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs={},
        refill_fn=rollouts.ask,
        filter_groups_metric="reward" if filtered else None,
        train_batch_size=8,
        gen_batch_size=1,
    )
    if ordered:
        deterministic.in_order(buffer, int)
    rollouts.ask(8)
    batch, _ = buffer.sample(global_steps=1, partition_id="train", batch_size=8)
    return batch.keys


@pytest.mark.parametrize("filtered", [True, False])
def test_batches_do_not_depend_on_who_finishes_when(monkeypatch, filtered):
    batches = [sampled(monkeypatch, seed, filtered=filtered) for seed in range(20)]
    assert all(batch == batches[0] for batch in batches)
    assert batches[0] == sorted(batches[0])
    assert Counter(key.split("_")[0] for key in batches[0]).most_common(1)[0][1] == 3
    numbers = [int(key.split("_")[0]) for key in batches[0][::3]]
    if filtered:
        assert numbers == [1, 2, 4, 5, 7, 8, 10, 11]
    else:
        assert numbers == list(range(8))


def test_verls_own_batches_do(monkeypatch):
    """Once they do not, in_order has nothing left to do."""
    batches = [sampled(monkeypatch, seed, ordered=False) for seed in range(20)]
    assert any(batch != batches[0] for batch in batches)
