"""The std filter in whole runs: prompts are replaced, and a resumed run goes on to the bit."""

import pytest
from runs.launch import largest_move, same_weights, train, without_clocks

FILTER = "algorithm.verl_ext.masks.std_filter"
STEPS, SAVED = 3, 2


def run(folder, *overrides):
    folder.mkdir()
    output, metrics = train(
        folder,
        "+paper=[task_balanced,std_filter]",
        "+scale=cpu",
        "algorithm.adv_estimator=grpo",
        # The tasks' rewards have deviations of about 0.5, 0.15 and 3: without multipliers only the
        # third would ever pass.
        f"{FILTER}.task_multipliers={{toy_exact: 5.0, toy_letters: 15.0, toy_points: 1.0}}",
        f"{FILTER}.beta=1.0",
        f"{FILTER}.warmup_from=1",
        f"{FILTER}.warmup_to=1",
        f"{FILTER}.decay=0.5",  # so that every step moves the threshold
        "data.train_batch_size=6",
        "actor_rollout_ref.actor.ppo_mini_batch_size=6",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.total_training_steps={STEPS}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
        *overrides,
    )
    return output, {step: without_clocks(values) for step, values in metrics.items()}


def check(output, metrics):
    """What must hold of any run of these settings."""
    assert set(metrics) == {1, 2, 3}
    assert "step 1: std_filter: from now on a prompt's standard deviation must reach" in output
    thresholds = [metrics[step]["verl_ext/std_filter/threshold"] for step in (1, 2, 3)]
    assert thresholds[0] == 0.0
    assert thresholds[1] == pytest.approx(metrics[1]["verl_ext/std_filter/mean_std"])
    mean = metrics[2]["verl_ext/std_filter/mean_std"]
    assert thresholds[2] == pytest.approx((thresholds[1] + mean) / 2)
    assert metrics[1]["verl_ext/std_filter/gen_batches"] == 1.0
    for step in (2, 3):
        values = metrics[step]
        judged = round(values["verl_ext/std_filter/gen_batches"] * 6)
        dropped = values["training/filter_groups/evicted_samples"]
        surplus = values.get("training/filter_groups/discarded_surplus_samples", 0)
        assert dropped > 0
        assert judged == 6 + dropped + surplus
        assert values["verl_ext/std_filter/kept"] == pytest.approx(1 - dropped / judged)
        assert values["actor/grad_norm"] > 0
        for task in ("exact", "letters", "points"):  # replaced by prompts of the same task
            assert values[f"verl_ext/sampler/toy_{task}/share"] == pytest.approx(1 / 3)


@pytest.mark.run
@pytest.mark.wide
def test_prompts_of_too_little_spread_are_replaced_by_others_of_their_task(tmp_path):
    check(*run(tmp_path / "run", "trainer.save_freq=-1"))


@pytest.mark.run
@pytest.mark.wide
def test_a_resumed_run_goes_on_to_the_bit(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    _, expected = run(whole, f"trainer.save_freq={SAVED}")
    assert largest_move(whole, STEPS, "three_tasks") > 1e-4  # or equality would say nothing
    _, found = run(
        resumed,
        f"trainer.save_freq={STEPS}",
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={whole}/checkpoints/global_step_{SAVED}",
        "actor_rollout_ref.rollout.agent.num_workers=3",  # so requests arrive in another order
    )
    assert found == {3: expected[3]}
    assert same_weights(whole, resumed, STEPS)
