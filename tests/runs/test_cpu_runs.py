"""Whole runs of verl on this machine's CPU: few, because each takes a minute or two."""

import pytest
from runs.launch import largest_move, train


@pytest.mark.run
def test_w_reinforce_trains_with_our_estimator_and_syncs_its_weights(tmp_path):
    output, metrics = train(
        tmp_path,
        "+paper=w_reinforce",
        "+scale=cpu",
        "algorithm.verl_ext.advantage.positive_weight=0.25",
        "algorithm.verl_ext.preload=true",  # a fork server of its own, as a user's run has
        "actor_rollout_ref.actor.optim.lr=3e-3",
        "trainer.total_training_steps=3",
        "trainer.test_freq=3",
        "trainer.save_freq=3",
        f"trainer.default_local_dir={tmp_path}/checkpoints",
        "actor_rollout_ref.actor.checkpoint.save_contents=[hf_model]",
        "data.train_batch_size=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    )
    assert set(metrics) == {0, 1, 2, 3}
    # Ours was called, with our argument: nothing else gives these two values.
    assert metrics[1]["critic/advantages/max"] == pytest.approx(0.25)
    assert metrics[1]["critic/advantages/min"] == pytest.approx(-1.0)
    # The policy moved, and the rollout server moved with it: without the weight sync, step 2 and 3
    # would be sampled from a policy that training no longer has.
    for step in (1, 2, 3):
        assert metrics[step]["training/rollout_probs_diff_max"] < 1e-4
    assert largest_move(tmp_path, step=3) > 1e-3
    for source in ("toy", "toy_held_out"):
        assert 0.0 <= metrics[0][f"verl_ext/val/{source}/pass@1"] <= 1.0
        assert metrics[3][f"verl_ext/val/{source}/pass@1"] is not None
    # What a person sees: a table and a picture, not verl's wall of text.
    assert "picture:" in output
    assert (tmp_path / "run" / "run.png").stat().st_size > 10_000
    assert "step:1 - " not in output
    assert "step:1 - " not in (tmp_path / "run" / "verl.log").read_text()  # console is not named


@pytest.mark.run
@pytest.mark.wide
def test_nsr_trains_on_two_data_parallel_workers_and_leaves_the_right_rows_out(tmp_path):
    output, metrics = train(
        tmp_path,
        "+paper=nsr",
        "+scale=cpu",
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=2",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.logger=[console,file]",
        "data.train_batch_size=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    )
    assert set(metrics) == {1, 2}
    for step in metrics.values():
        wrong = 1 - step["critic/rewards/mean"]
        assert 0 < wrong < 1
        assert 0 < step["verl_ext/zero_advantage/kept_share"] < 1
        assert step["verl_ext/skipped_update"] == 0.0
        assert step["critic/advantages/max"] == pytest.approx(-1.0)  # right rows are masked
        assert step["actor/grad_norm"] > 0
        assert step["training/rollout_probs_diff_max"] < 1e-4
    assert "step:1 - " in output  # console is named
