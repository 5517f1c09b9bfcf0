"""Whole runs with Megatron in the place of FSDP; tests/engine_parity has the numbers."""

import pytest
from runs.launch import largest_move, train

MEGATRON = "actor_rollout_ref.actor.megatron"
SHORT = [
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
]


def check(metrics, steps):
    assert set(metrics) == set(range(1, steps + 1))
    for step in metrics.values():
        assert step["actor/grad_norm"] > 0
        # Megatron's weights reached the rollout, through the bridge, after every update.
        assert step["training/rollout_probs_diff_max"] < 1e-4


@pytest.mark.run
@pytest.mark.wide
def test_w_reinforce_trains_on_megatron_and_saves(tmp_path):
    _, metrics = train(
        tmp_path,
        "model_engine=megatron",
        "+paper=w_reinforce",
        "+scale=cpu",
        *SHORT,
        "actor_rollout_ref.actor.optim.lr=3e-3",
        "trainer.total_training_steps=3",
        "trainer.save_freq=3",
        f"trainer.default_local_dir={tmp_path}/checkpoints",
    )
    check(metrics, steps=3)
    assert metrics[1]["critic/advantages/max"] == pytest.approx(0.1)
    assert metrics[1]["critic/advantages/min"] == pytest.approx(-1.0)
    assert largest_move(tmp_path, step=3) > 1e-3


@pytest.mark.run
@pytest.mark.wide
def test_psr_trains_on_two_tensor_parallel_ranks(tmp_path):
    _, metrics = train(
        tmp_path,
        "model_engine=megatron",
        "+paper=psr",
        "+scale=cpu",
        *SHORT,
        f"{MEGATRON}.tensor_model_parallel_size=2",
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=2",
    )
    check(metrics, steps=2)
    for step in metrics.values():
        assert step["critic/advantages/min"] == pytest.approx(1.0)  # wrong rows are masked
        assert 0 < step["verl_ext/zero_advantage/kept_share"] < 1
