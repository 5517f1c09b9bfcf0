"""Prompts below the threshold are replaced until a batch is full, or the run stops."""

import statistics
from contextlib import nullcontext

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.resampling.world import BATCH, SPREADS, World, ours, train

from verl_ext.adapters.trainer.resampling import NotEnoughSpreadError


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
