"""Task-balanced sampling through verl's own replay buffers, on a queue in memory.

Prompts finish in random order, fail at random and are filtered at random. Nothing waits, so a batch
that can never be complete fails the test instead of hanging it.
"""

import copy
import io
import random
import uuid
from collections import Counter
from itertools import count, islice

import pytest
import torch
import transfer_queue as tq
import verl  # loads the plugin  # noqa: F401
from adapters.prompt_tags import PromptTags
from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.dataset.rl_dataset import collate_fn

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.task_balance import TaskBalance
from verl_ext.adapters.task_data import check_loaded, task_ids
from verl_ext.adapters.trainer.resampling import FinishedPrompts
from verl_ext.adapters.trainer.sampling import Sampling
from verl_ext.masks.std_filter import StdFilterMask
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


@pytest.fixture
def use(monkeypatch):
    """Puts a world in TransferQueue's place, with uids that do not depend on the machine."""

    def replaced(world):
        for name in ("kv_list", "kv_batch_put", "kv_clear", "kv_batch_get"):
            monkeypatch.setattr(tq, name, getattr(world, name))
        monkeypatch.setattr(uuid, "uuid4", lambda: f"{world.rng.getrandbits(64):016x}")
        return world

    return replaced


def owed(number, size):
    """The tasks of the stream's windows: what batches must hold, whatever was replaced."""
    stream = TaskBalancedStream(TASKS, BATCH, weights=WEIGHTS, seed=5)
    tasks = (TASKS[stream.draw()] for _ in range(number * size))
    return [Counter(islice(tasks, size)) for _ in range(number)]


FILTER = {"filter_groups_metric": "reward"}
SYNC_SETTINGS = [
    {},
    {"sync_refill_failed_groups": True},
    FILTER,
    FILTER | {"max_inflight_gen_batches": 2},
    FILTER | {"sync_refill_failed_groups": True},
]
ASYNC_SETTINGS = [
    {},
    FILTER,
    {"max_off_policy_threshold": 2},
    FILTER | {"max_off_policy_threshold": 1},
    FILTER | {"max_off_policy_threshold": 2, "max_off_policy_strategy": "wait"},
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", SYNC_SETTINGS)
def test_every_synchronous_batch_holds_what_it_owes(use, settings, seed):
    failing = 0.2 if settings.get("sync_refill_failed_groups") else 0.0
    world = use(World(seed, filtered=0.6, failing=failing))
    trainer = Trainer(world, "sync", **settings)
    updates = trainer.train(8)
    assert [tasks for tasks, _, _ in updates] == owed(8, BATCH)
    assert world.tags["train"] == {}, "a prompt of an old policy is left for the next step"
    assert not trainer.balance.state_dict()["live"]
    assert sorted(trainer.drawn) == sorted(trainer.trained + trainer.cleared)
    if "filter_groups_metric" in settings:
        prefix = "training/"
        counted = Counter()
        for _, _, metrics in updates:
            counted.update({k: v for k, v in metrics.items() if k.startswith(prefix)})
        assert sum(counted.values()) == len(trainer.cleared)
        assert counted[f"{prefix}filter_groups/discarded_surplus_samples"] > 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("warmup", [0, 1.5])
@pytest.mark.parametrize("settings", ASYNC_SETTINGS)
@pytest.mark.parametrize(
    ("mode", "sync_step", "threshold"),
    [("colocate_async", 1, None), ("separate_async", 2, None), ("separate_async", 2, 6)],
)
def test_every_asynchronous_batch_holds_what_it_owes(
    use, settings, mode, sync_step, threshold, warmup, seed
):
    world = use(World(seed, filtered=0.4, failing=0.1))
    trainer = Trainer(world, mode, sync_step=sync_step, **settings)
    trainer._add_async_warmup_batches(warmup)
    updates = trainer.train(8, threshold=threshold)
    assert [tasks for tasks, _, _ in updates] == owed(8 * sync_step, BATCH // sync_step)
    live = world.prompts("pending", "running", "finished", "failure")
    assert sorted(trainer.drawn) == sorted(trainer.trained + trainer.cleared + live)
    assert sorted(live) == sorted(uid for uid, _ in trainer.balance.state_dict()["live"])
    assert len(trainer.drawn) - len(trainer.cleared) == int(warmup * BATCH) + 8 * BATCH


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("mode", "sync_step"), [("sync", 1), ("colocate_async", 1), ("separate_async", 2)]
)
def test_what_the_std_filter_drops_is_replaced_by_prompts_of_the_same_tasks(
    use, mode, sync_step, seed
):
    trainer = Trainer(use(World(seed, filtered=0.4)), mode, sync_step=sync_step, **FILTER)
    std_filter = StdFilterMask(warmup_from=1, warmup_to=1)
    buffer = trainer.replay_buffer
    finished = FinishedPrompts(buffer, std_filter, batch_size=BATCH, task_key="data_source")
    buffer._dapo_filtered_keys = finished.dropped
    updates = []
    for step in range(1, 9):
        updates += trainer.train(1)
        std_filter.end_step(step)
    assert [tasks for tasks, _, _ in updates] == owed(8 * sync_step, BATCH // sync_step)
    assert trainer.cleared
    live = trainer.world.prompts("pending", "running", "finished", "failure")
    assert sorted(trainer.drawn) == sorted(trainer.trained + trainer.cleared + live)


@pytest.mark.parametrize("fetch", [1, 2, 4, 8])
def test_whole_fetches_lose_nothing_at_the_end_of_an_epoch(use, fetch):
    trainer = Trainer(use(World(1)), "sync", fetch=fetch)
    rows = [row for _, rows, _ in trainer.train(20) for row in rows]
    stream = TaskBalancedStream(TASKS, BATCH, weights=WEIGHTS, seed=5)
    batches = [sorted(stream.draw() for _ in range(BATCH)) for _ in range(20)]
    assert rows == [row for batch in batches for row in batch]


def saved(state, weights_only):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("mode", "sync_step"), [("sync", 1), ("colocate_async", 1), ("separate_async", 2)]
)
@pytest.mark.parametrize("before", [1, 5, 8])  # an epoch ends after the eighth step
def test_a_resumed_run_continues_like_the_one_that_was_not_stopped(
    use, mode, sync_step, seed, before
):
    world = use(World(seed, filtered=0.4))
    first = Trainer(world, mode, sync_step=sync_step, **FILTER)
    if mode != "sync":
        first._add_async_warmup_batches(1.5)
    first.train(before)
    at_checkpoint = copy.deepcopy(world)
    data_pt = saved(first.train_dataloader.state_dict(), weights_only=False)
    state = saved(first.balance.state_dict(), weights_only=True)
    expected = first.train(6)

    world = use(at_checkpoint)
    second = Trainer(world, mode, sync_step=sync_step, **FILTER)
    second.global_steps = before + 1
    second.train_dataloader.load_state_dict(data_pt)
    second.balance.load_state_dict(state)
    second.balance.check_restored(world.prompts("pending", "running", "finished", "failure"))
    assert second.train(6) == expected


def test_a_refill_before_the_first_fetch_of_a_resumed_run_continues_the_saved_pass(use):
    first = Trainer(use(World(0)), "colocate_async")
    first.train(1)
    second = Trainer(use(World(0)), "colocate_async")
    second.train_dataloader.load_state_dict(first.train_dataloader.state_dict())
    continued = []
    for trainer in (first, second):
        refills = [trainer.balance.stream.next_of("math") for _ in range(3)]
        fetches = [trainer._next_train_batch(1)["row"] for _ in range(10)]
        continued.append((refills, [list(rows) for rows in fetches]))
    assert continued[0] == continued[1]


def test_validation_passes_through(use):
    world = use(World(0))
    trainer = Trainer(world, "colocate_async")
    trainer.prepare_step()
    for name in "abcd":
        tag = {"is_prompt": True, "status": "finished", "global_steps": 1}
        world.tags["val"] |= {name: tag, f"{name}_0_0": {"global_steps": 1}}
    batch, _ = trainer.replay_buffer.sample(global_steps=1, partition_id="val", batch_size=3)
    assert len(batch.keys) == 3
    trainer.replay_buffer._clear_groups("val", set("abcd") & world.tags["val"].keys())
    assert len(trainer.balance.state_dict()["live"]) == BATCH
    assert trainer.balance.metrics() == {}


def test_only_prompts_that_count_are_sampleable(use):
    world = use(World(0))
    trainer = Trainer(world, "separate_async")
    trainer.prepare_step()
    order = list(trainer.drawn)
    tasks = [world.tasks[uid] for uid in order]

    def sampleable():
        return trainer.replay_buffer.get_sampleable_count(1, "train")

    assert tasks[0] != tasks[-1]
    same = [uid for uid, task in zip(order, tasks, strict=True) if task == tasks[-1]]
    for uid in same:
        world.finish(uid)
    assert sampleable() == 0, "the first place of the queue has another task"
    for uid in order:
        if uid not in same:
            world.finish(uid)
    assert sampleable() == BATCH


def test_the_oldest_prompts_are_selected_and_equals_in_the_order_drawn(use):
    world = use(World(0))
    trainer = Trainer(world, "colocate_async")
    trainer.prepare_step()
    trainer.global_steps = 2
    trainer.prepare_step()
    for uid in trainer.drawn:
        world.finish(uid)
    maths = [uid for uid in trainer.drawn if world.tasks[uid] == "math"]
    assert len(maths) == 8  # 4 in each batch
    for uid in maths[:2]:  # as if re-issued after a restart: verl tags them with the new step
        world.tags["train"][uid]["global_steps"] = 3
    trainer.sample()
    assert [uid for uid in maths if uid in trainer.trained] == maths[2:6]


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_the_names_of_prompts_do_not_decide_which_are_trained(use, monkeypatch, mode):
    runs = []
    for name in "abc":  # other names: verl's sets have another order, as in another process
        numbers = count()
        world = use(World(0, filtered=0.4))
        monkeypatch.setattr(
            uuid, "uuid4", lambda name=name, numbers=numbers: f"{name}{next(numbers)}"
        )
        trainer = Trainer(world, mode, **FILTER)
        runs.append([rows for _, rows, _ in trainer.train(8)])
    assert runs[0] == runs[1] == runs[2]


def test_a_task_that_no_filter_lets_through_stops_the_run_in_words(use):
    trainer = Trainer(use(World(0, hopeless=("code",))), "sync", **FILTER)
    with pytest.raises(RuntimeError, match=r"2\.4 prompts of task 'code'.*weight of 0"):
        trainer.train(1)


def test_metrics_are_the_shares_of_the_step_and_what_was_dropped(use):
    trainer = Trainer(use(World(0, filtered=0.5)), "separate_async", sync_step=2, **FILTER)
    for expected in owed(2, BATCH):
        before = len(trainer.cleared)
        trainer.train(1)
        dropped = Counter(trainer.world.tasks[uid] for uid in trainer.cleared[before:])
        assert dropped
        metrics = trainer.balance.metrics()
        for task in WEIGHTS:
            assert metrics[f"verl_ext/sampler/{task}/share"] == expected[task] / BATCH
            assert metrics[f"verl_ext/sampler/{task}/dropped"] == dropped[task]
    assert trainer.balance.metrics() == {}


def balance(tasks=TASKS, **changes):
    arguments = {"weights": WEIGHTS, "task_key": "data_source", "batch_size": BATCH, "seed": 5}
    return TaskBalance(Data(tasks), **(arguments | {"shuffle": True} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_key": "data_sauce"}, r"task_key: no column 'data_sauce'.*'data_source'.*prompt"),
        ({"weights": {"math": 1.0}}, r"sampler\.task_balanced: weights: no weight for 'code'"),
        ({"weights": "even"}, r"sampler\.task_balanced: weights must be 'uniform'"),
        ({"batch_size": 65}, r"sampler\.task_balanced: batch_size 65 is more than the 64 prompts"),
        ({"tasks": [*TASKS, None]}, r"row 64 holds None"),
        ({"tasks": [*TASKS, float("nan")]}, r"row 64 holds nan"),
        ({"tasks": [["math"]] * 20}, r"row 0 holds \['math'\]"),
    ],
)
def test_what_cannot_be_balanced_is_refused_with_its_key(changes, message):
    with pytest.raises(SettingsError, match=message):
        balance(**changes)


def test_a_data_set_without_a_frame_is_refused():
    data = torch.utils.data.TensorDataset(torch.zeros(20))
    with pytest.raises(SettingsError, match=r"TensorDataset has no attribute dataframe"):
        TaskBalance(data, weights="uniform", task_key="x", batch_size=4, seed=None, shuffle=True)


@pytest.mark.parametrize("library", ["datasets", "pandas"])
def test_columns_of_both_libraries_become_plain_values(library):
    columns = {"task": [1, 2] * 10}
    data = Data()
    if library == "pandas":
        data.dataframe = pytest.importorskip("pandas").DataFrame(columns)
    else:  # verl's own; filtering leaves the rows and a list of indices
        frame = pytest.importorskip("datasets").Dataset.from_dict({"task": [3, 1, 2, *[1, 2] * 9]})
        data.dataframe = frame.select(range(1, 21))
    ids = task_ids(data, "task")
    assert ids == columns["task"]
    assert {type(task) for task in ids} == {int}


def test_fetches_that_do_not_divide_the_batch_and_workers_with_refills_are_refused():
    arguments = {"collate_fn": collate_fn, "refills": True}
    with pytest.raises(SettingsError, match=r"data\.gen_batch_size=3 must divide"):
        balance().dataloader(batch_size=3, num_workers=0, **arguments)
    with pytest.raises(SettingsError, match=r"data\.dataloader_num_workers=2: set it to 0"):
        balance().dataloader(batch_size=1, num_workers=2, **arguments)
    balance().dataloader(batch_size=1, num_workers=2, collate_fn=collate_fn, refills=False)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", [RandomSampler, torch.utils.data.SequentialSampler])
def test_the_position_of_verls_own_samplers_is_refused(sampler, workers):
    data = Data()
    stock = StatefulDataLoader(
        data, batch_size=1, num_workers=workers, collate_fn=collate_fn, sampler=sampler(data)
    )
    next(iter(stock))
    state = saved(stock.state_dict(), weights_only=False)
    ours = balance().dataloader(batch_size=1, num_workers=0, collate_fn=collate_fn, refills=True)
    with pytest.raises(SettingsError, match=r"data\.pt was written with another sampler"):
        ours.load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_position_of_other_settings_is_refused_when_it_is_loaded(workers):
    def loader(**changes):
        return balance(**changes).dataloader(
            batch_size=1, num_workers=workers, collate_fn=collate_fn, refills=False
        )

    first = loader()
    next(iter(first))
    state = saved(first.state_dict(), weights_only=False)
    check_loaded(state)
    with pytest.raises(SettingsError, match=r"data\.pt of the checkpoint: .*seed was 5, is 6"):
        loader(seed=6).load_state_dict(state)


def test_a_queue_that_lacks_prompts_of_the_state_is_refused(use):
    trainer = Trainer(use(World(0)), "colocate_async")
    trainer.prepare_step()
    trainer.balance.check_restored(trainer.drawn)
    with pytest.raises(SettingsError, match=r"lacks 8 prompts .* holds 0"):
        trainer.balance.check_restored([])
    with pytest.raises(SettingsError, match=r"lacks 0 prompts .* holds 1"):
        trainer.balance.check_restored([*trainer.drawn, "stranger"])


def test_a_finished_prompt_that_was_not_drawn_here_is_refused(use):
    world = use(World(0))
    trainer = Trainer(world, "sync")
    tag = {"is_prompt": True, "status": "finished", "global_steps": 1}
    world.tags["train"]["stranger"] = tag
    with pytest.raises(RuntimeError, match=r"1 finished prompts were not drawn"):
        trainer.sample()


def test_a_buffer_without_verls_methods_is_refused():
    class Own:
        def sample(self):
            """Its own rules."""

    with pytest.raises(SettingsError, match=r"custom_sampler: Own has no _sampleable_terminal"):
        balance().watch(Own())
