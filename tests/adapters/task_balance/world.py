"""Task-balanced sampling through verl's own replay buffers, on a queue in memory.

Prompts finish in random order, fail at random and are filtered at random. Nothing waits, so a batch
that can never be complete fails the test instead of hanging it.
"""

import io
import random
from collections import Counter
from itertools import islice

import torch
import transfer_queue as tq
from adapters.prompt_tags import PromptTags
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from verl_ext.adapters.task_balance import TaskBalance
from verl_ext.adapters.trainer.sampling import Sampling
from verl_ext.sampling.stream import TaskBalancedStream

TASKS = ["math"] * 30 + ["code"] * 20 + ["summary"] * 14
random.Random(3).shuffle(TASKS)
BATCH = 8
WEIGHTS = {"math": 0.5, "code": 0.3, "summary": 0.2}  # 4, 2.4 and 1.6: the last two take turns
POLLS = 3000


class Frame(dict):
    """As much of a Hugging Face data set as is read."""

    column_names = property(list)


class Data(torch.utils.data.Dataset):
    def __init__(self, tasks=TASKS):
        self.dataframe = Frame(data_source=list(tasks), prompt=[""] * len(tasks))

    def __len__(self):
        return len(self.dataframe["prompt"])

    def __getitem__(self, row):
        task = self.dataframe["data_source"][row]
        return {"raw_prompt": [str(row)], "data_source": task, "row": row}


class World(PromptTags):
    """TransferQueue and the agent loops: prompts finish whenever verl would wait."""

    def __init__(self, seed, *, filtered=0.0, failing=0.0, hopeless=()):
        self.rng = random.Random(seed)
        self.filtered, self.failing, self.hopeless = filtered, failing, hopeless
        super().__init__()
        self.scores, self.tasks, self.rows = {}, {}, {}
        self.polls = 0

    def kv_batch_get(self, keys, partition_id, select_fields):
        return {"rm_scores": [torch.tensor([self.scores[key]]) for key in keys]}

    def generate_sequences(self, batch):
        for uid, task, row in zip(batch["uid"], batch["data_source"], batch["row"], strict=True):
            self.tasks[uid], self.rows[uid] = task, row

    def prompts(self, *states):
        tags = self.tags["train"].items()
        return [k for k, tag in tags if tag.get("is_prompt") and tag["status"] in states]

    def poll(self, partition_id, last_debug_time):
        self.polls += 1
        assert self.polls < POLLS, "the batch never becomes complete"
        waiting = self.prompts("pending", "running")
        for uid in self.rng.sample(waiting, min(len(waiting), self.rng.randint(1, 3))):
            self.finish(uid)
        return last_debug_time

    def finish(self, uid):
        tags = self.tags["train"]
        failed = self.rng.random() < self.failing
        tags[uid]["status"] = "failure" if failed else "finished"
        if failed:
            return
        same = self.rng.random() < self.filtered or self.tasks[uid] in self.hopeless
        for session in (0, 1):
            tags[f"{uid}_{session}_0"] = {"global_steps": tags[uid]["global_steps"]}
            self.scores[f"{uid}_{session}_0"] = 1.0 if same else float(session)


class Verl(PPOTrainer):
    """verl's trainer with a data set that is there."""

    def _init_dataloader(self):
        self.train_dataset = Data()


class Trainer(Sampling, Verl):
    """Our stage over verl's own."""

    def __init__(self, world, mode, *, sync_step=1, fetch=1, **buffer):
        self.world, self.trainer_mode, self.parameter_sync_step = world, mode, sync_step
        self.agent_loop_manager = world
        self.ext_balance, self._ext_refilling = None, False
        self.config = OmegaConf.create(
            {
                "data": {
                    "train_batch_size": BATCH,
                    "gen_batch_size": fetch,
                    "dataloader_num_workers": 0,
                    "seed": 5,
                    "shuffle": True,
                },
                "skip": {"rollout_tq": {"enable": False}},
                "algorithm": {"verl_ext": {"sampler": {"task_balanced": {"weights": WEIGHTS}}}},
            }
        )
        self.global_steps, self._restored_tq_prompt_count = 1, 0
        self.train_dataloader_it = None
        buffer_class = ReplayBuffer if mode == "sync" else ReplayBufferAsync
        settings = {"max_off_policy_threshold": None, "max_off_policy_strategy": "drop"} | buffer
        self.replay_buffer = buffer_class(
            trainer_mode=mode,
            trainer_config=None,
            sampler_kwargs=None,
            refill_fn=self._add_prompts_to_generate,
            train_batch_size=BATCH,
            gen_batch_size=fetch,
            **settings,
        )
        self.replay_buffer._wait_for_next_poll = world.poll
        self.drawn, self.trained, self.cleared = [], [], []
        self.record_clears()
        self._init_dataloader()

    @property
    def balance(self):
        return self.ext_balance

    def on_sample_end(self):
        """Nothing to pause."""

    def on_step_end(self):
        """No weights to send."""

    def record_clears(self):
        original = self.replay_buffer._clear_groups

        def clear(partition_id, uids):
            self.cleared += uids
            original(partition_id, uids)

        self.replay_buffer._clear_groups = clear

    def _next_train_batch(self, num_prompts=None):
        batch = super()._next_train_batch(num_prompts)
        self.drawn += list(batch["uid"])
        return batch

    def refill(self, count):
        return self.replay_buffer.refill_fn(count)

    def sample(self):
        """One local update: the tasks and rows of its prompts."""
        size = BATCH // self.parameter_sync_step
        batch, metrics = self.replay_buffer.sample(
            global_steps=self.global_steps, partition_id="train", batch_size=size
        )
        uids = list(dict.fromkeys(key.split("_")[0] for key in batch.keys))
        self.trained += uids
        tq.kv_clear(keys=batch.keys, partition_id="train")
        tasks = Counter(self.world.tasks[uid] for uid in uids)
        return tasks, sorted(self.world.rows[uid] for uid in uids), metrics

    def train(self, steps, threshold=None):
        """The updates of some steps, as verl's ``fit``, ``step`` and hybrid switching run them."""
        updates = []
        for _ in range(steps):
            self.prepare_step()
            if threshold:
                self.replay_buffer.get_sampleable_count(self.global_steps, "train")
                self.replay_buffer.wait_for_sampleable(self.global_steps, "train", threshold)
            updates += [self.sample() for _ in range(self.parameter_sync_step)]
            self.global_steps += 1
        return updates


def owed(number, size):
    """The tasks of the stream's windows: what batches must hold, whatever was replaced."""
    stream = TaskBalancedStream(TASKS, BATCH, weights=WEIGHTS, seed=5)
    tasks = (TASKS[stream.draw()] for _ in range(number * size))
    return [Counter(islice(tasks, size)) for _ in range(number)]


FILTER = {"filter_groups_metric": "reward"}


def saved(state, weights_only):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


def balance(tasks=TASKS, **changes):
    arguments = {"weights": WEIGHTS, "task_key": "data_source", "batch_size": BATCH, "seed": 5}
    return TaskBalance(Data(tasks), **(arguments | {"shuffle": True} | changes))
