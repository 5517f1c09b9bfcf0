"""One seed, one result: whole runs that are equal to the bit, whatever arrives when."""

import pytest
from runs.launch import largest_move, same_weights, train, without_clocks

from verl_ext.toy import variants

STEPS, SAVED = 3, 2


def run(folder, engine, *overrides):
    folder.mkdir()
    _, metrics = train(
        folder,
        f"model_engine={engine}",
        "+paper=qwenlong_l15",
        "+scale=cpu",
        "algorithm.verl_ext.masks.aepo.calibration_steps=1",  # its state decides about step 3
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.rollout.top_p=1.0",  # the paper's 0.95 renormalises rollout log-probs
        "actor_rollout_ref.rollout.val_kwargs.n=2",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.total_training_steps={STEPS}",
        f"trainer.test_freq={STEPS}",
        "trainer.val_before_train=false",
        *overrides,
    )
    return {step: without_clocks(values) for step, values in metrics.items()}


@pytest.mark.run
@pytest.mark.parametrize("engine", [pytest.param("dp", marks=pytest.mark.wide), "megatron"])
def test_a_run_repeats_and_resumes_to_the_bit(tmp_path, engine):
    whole, again, resumed = (tmp_path / name for name in ("whole", "again", "resumed"))
    # With a server of its own to fork from, as a user has it; the resumed run shares the tests'.
    own_server = "algorithm.verl_ext.preload=true"
    expected = run(whole, engine, f"trainer.save_freq={SAVED}", own_server)
    assert set(expected) == {1, 2, 3}
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in expected.values())
    assert all(f"verl_ext/val/{source}/pass@1" in expected[3] for source in data_sources())

    assert largest_move(whole, STEPS, "three_tasks") > 1e-3  # or equality would say nothing

    # Other workers drive the rollouts, so the requests arrive in another order.
    workers = "actor_rollout_ref.rollout.agent.num_workers=3"
    if engine == "dp":
        new_processes = "algorithm.verl_ext.preload=false"  # no number depends on it
        save = f"trainer.save_freq={STEPS}"
        assert run(again, engine, save, workers, new_processes) == expected
        assert same_weights(whole, again, STEPS)

    step_2 = f"trainer.resume_from_path={whole}/checkpoints/global_step_{SAVED}"
    found = run(
        resumed,
        engine,
        f"trainer.save_freq={STEPS}",
        "trainer.resume_mode=resume_path",
        step_2,
        workers,
    )
    assert found == {3: expected[3]}
    assert same_weights(whole, resumed, STEPS)


def data_sources():
    return [source for source, _ in variants.recipe_of("three_tasks").validation]
