"""Our parts together with each other and with verl's own switches, in whole runs."""

import textwrap

import pytest
from runs.launch import train

SHORT = [
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.total_training_steps=2",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
]


@pytest.mark.run
def test_aepo_on_plain_grpo_with_gspo_filter_kl_in_reward_and_rollout_correction(tmp_path):
    _, metrics = train(
        tmp_path,
        "+paper=[task_balanced,aepo]",
        "+scale=cpu",
        "algorithm.adv_estimator=grpo",
        *SHORT,
        "algorithm.verl_ext.masks.aepo.low=0.0",
        "algorithm.verl_ext.masks.aepo.high=0.001",  # masking is on
        "actor_rollout_ref.actor.policy_loss.loss_mode=gspo",
        "algorithm.filter_groups.enable=true",
        "algorithm.filter_groups.metric=acc",
        "algorithm.use_kl_in_reward=true",
        "algorithm.rollout_correction.rollout_is=token",
        "algorithm.rollout_correction.rollout_rs=token_k1",
        "algorithm.rollout_correction.rollout_rs_threshold=0.5_2.0",
    )
    assert set(metrics) == {1, 2}
    # Against the reference, which the policy still is at the first step.
    assert metrics[1]["actor/reward_kl_penalty"] == pytest.approx(0, abs=1e-5)
    for step in metrics.values():
        assert step["verl_ext/aepo/gate_on"] == 1.0
        assert 0 < step["verl_ext/aepo/kept_share"] < 1
        assert step["critic/advantages/min"] >= 0.0
        assert step["actor/grad_norm"] > 0
        # Groups without a spread were dropped, and every task still has its third of the batch.
        assert step["training/filter_groups/evicted_samples"] > 0
        shares = [step[f"verl_ext/sampler/toy_{t}/share"] for t in ("exact", "letters", "points")]
        assert sorted(shares) == pytest.approx([2 / 8, 3 / 8, 3 / 8])


# Everything is wrong at first, and right from the second step on.
REWARD = """
    calls = 0

    def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
        global calls
        calls += 1
        return float(calls > {first_step})
"""


@pytest.mark.run
def test_a_step_of_mistakes_alone_is_skipped_and_the_next_one_trains(tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text(textwrap.dedent(REWARD).format(first_step=8 * 8))
    output, metrics = train(
        tmp_path,
        "+paper=[w_reinforce,aepo]",
        "+scale=cpu",
        *SHORT,
        "algorithm.verl_ext.masks.aepo.low=0.0",
        "algorithm.verl_ext.masks.aepo.high=0.001",
        f"reward.custom_reward_function.path={reward}",
    )
    assert [metrics[step]["critic/rewards/mean"] for step in (1, 2)] == [0.0, 1.0]
    assert [metrics[step]["verl_ext/skipped_update"] for step in (1, 2)] == [1.0, 0.0]
    assert "step 1: nothing left to learn from, no update" in output
    assert "actor/grad_norm" not in metrics[1]
    assert metrics[2]["actor/grad_norm"] > 0
    # Nothing had moved: the weights that the second step was sampled from are those it trains.
    assert metrics[2]["training/rollout_probs_diff_max"] < 1e-4
