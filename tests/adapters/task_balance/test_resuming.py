"""A resumed run continues where the saved one stood, or is refused."""

import copy

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters.task_balance.world import FILTER, Data, Trainer, World, balance, saved
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler
from verl.utils.dataset.rl_dataset import collate_fn

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.task_data import check_loaded


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
