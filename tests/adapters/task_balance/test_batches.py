"""Every batch holds the tasks that it owes, whatever fails, is filtered or is late."""

import uuid
from collections import Counter
from itertools import count

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.task_balance.world import BATCH, FILTER, TASKS, WEIGHTS, Trainer, World, owed

from verl_ext.adapters.trainer.resampling import FinishedPrompts
from verl_ext.masks.std_filter import StdFilterMask
from verl_ext.sampling.stream import TaskBalancedStream

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
