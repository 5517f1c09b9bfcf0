"""Whole runs with a teacher in the reference worker; tests/engine_parity has the numbers."""

import pytest
from runs.launch import train

SHORT = [
    "+paper=opd",
    "+scale=cpu",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "actor_rollout_ref.actor.ppo_mini_batch_size=32",  # one update a step
    "actor_rollout_ref.actor.optim.lr=5e-4",
]


@pytest.mark.run
def test_a_student_comes_closer_to_its_teacher(tmp_path):
    """FSDP2; distillation alone, with another policy loss than verl's default."""
    _, metrics = train(
        tmp_path,
        *SHORT,
        "actor_rollout_ref.actor.policy_loss.loss_mode=gspo",
        "trainer.total_training_steps=4",
    )
    gaps = [metrics[step]["verl_ext/teacher/reverse_kl"] for step in range(1, 5)]
    assert gaps[0] > 1  # nats a token: the teacher is another model
    assert sum(gaps[2:]) < 0.9 * sum(gaps[:2])
    assert metrics[1]["verl_ext/teacher/non_finite"] == 0.0


@pytest.mark.run
def test_a_task_its_teacher_and_a_divergence_train_together_on_two_tensor_parallel_ranks(tmp_path):
    _, metrics = train(
        tmp_path,
        "model_engine=megatron",
        *SHORT,
        "algorithm.verl_ext.advantage.task_estimator=grpo",
        "+algorithm.verl_ext.divergence={top_k: 8}",
        "actor_rollout_ref.actor.megatron.tensor_model_parallel_size=2",
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=3",
    )
    for step in metrics.values():
        # The log-probs are our kernel's in the update and verl's before it.
        assert abs(step["actor/ppo_kl"]) < 1e-5
        assert step["training/rollout_probs_diff_max"] < 1e-4
        assert 0 <= step["verl_ext/divergence/student_tail"] < 0.5
        assert 0 <= step["verl_ext/divergence/teacher_tail"] < 0.5
        assert 0 < step["verl_ext/divergence/top_k_overlap"] <= 1
    first, last = metrics[1], metrics[3]
    # With a tail the divergence over the top 8 is at most that over all tokens.
    assert 0 < first["verl_ext/divergence/loss"] < 1.5 * first["verl_ext/teacher/reverse_kl"]
    assert last["verl_ext/divergence/loss"] < first["verl_ext/divergence/loss"]
