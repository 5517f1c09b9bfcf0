"""Whole runs of a policy that teaches itself; tests/engine_parity has the numbers."""

import pytest
from runs.launch import train

SHORT = ["+scale=cpu", "trainer.val_before_train=false", "trainer.test_freq=-1"]


def check(metrics, steps):
    assert set(metrics) == set(range(1, steps + 1))
    for step in metrics.values():
        assert step["training/rollout_probs_diff_max"] < 1e-4
        # The log-probs are our kernel's in the update and verl's before it.
        assert abs(step["actor/ppo_kl"]) < 1e-5
        assert 0.2 < step["verl_ext/teacher/prompt/taught"] < 1
        assert step["verl_ext/teacher/support_non_finite"] == 0.0
        assert step["verl_ext/divergence/value"] > 0
        assert step["verl_ext/divergence/top_k_overlap"] == pytest.approx(1)  # one update a step
        assert 0 <= step["verl_ext/divergence/student_tail"] < 0.1
        assert step["actor/grad_norm"] > 0


@pytest.mark.run
def test_a_policy_learns_from_its_average_that_has_seen_a_success(tmp_path):
    _, metrics = train(
        tmp_path,
        "+paper=sdpo",
        *SHORT,
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "trainer.total_training_steps=3",
    )
    check(metrics, steps=3)
    shares = [metrics[step]["verl_ext/teacher/ema_distance"] for step in (1, 2, 3)]
    assert shares == sorted(shares)
    assert shares[-1] > shares[0]  # the average lags behind


@pytest.mark.run
@pytest.mark.wide
def test_feedback_and_a_task_teach_on_megatron_within_a_trust_region(tmp_path):
    """Two tensor-parallel ranks; the reference worker has both a KL and the teacher to serve."""
    _, metrics = train(
        tmp_path,
        "model_engine=megatron",
        "+paper=sdpo_rich_feedback",
        *SHORT,
        "algorithm.verl_ext.teacher.source=trust_region",
        "algorithm.verl_ext.teacher.hints.feedback_only_without_solution=false",
        "algorithm.verl_ext.advantage.task_estimator=grpo",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.kl_loss_type=low_var_kl",
        "actor_rollout_ref.actor.ppo_mini_batch_size=16",
        "actor_rollout_ref.actor.megatron.tensor_model_parallel_size=2",
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=2",
    )
    check(metrics, steps=2)
    for step in metrics.values():
        # A success without a sibling that succeeded is all that nobody teaches.
        failed = 1 - step["critic/rewards/mean"]
        assert step["verl_ext/teacher/prompt/taught"] >= failed
    assert metrics[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-5)
    assert metrics[2]["actor/kl_loss"] > 0
