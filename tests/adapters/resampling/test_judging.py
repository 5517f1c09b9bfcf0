"""Which prompts the filter judges, by which rewards, and what it remembers of them."""

import copy
import statistics
from collections import Counter

import pytest
import verl  # loads the plugin  # noqa: F401
from adapters.resampling.world import World, ours, train

from verl_ext.adapters.trainer.resampling import NotEnoughSpreadError


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
