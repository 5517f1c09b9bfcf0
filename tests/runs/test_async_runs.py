"""Whole runs whose servers sample while the policy learns."""

import pytest
from runs.launch import train

LAG = "training/off_policy/trajectory_staleness_worst/max"
ESS = "verl_ext/effective_sample_size"


def run(folder, mode, *overrides):
    _, metrics = train(
        folder,
        "+paper=w_reinforce",
        "+scale=cpu",
        f"trainer.v1.trainer_mode=verl_ext.{mode}",
        "algorithm.verl_ext.deterministic=false",
        "actor_rollout_ref.actor.optim.lr=3e-4",
        "trainer.total_training_steps=3",
        "trainer.val_before_train=false",
        "trainer.test_freq=3",
        *overrides,
    )
    return metrics


@pytest.mark.run
@pytest.mark.parametrize(
    ("mode", "overrides"),
    [
        pytest.param("colocate_async", [], marks=pytest.mark.wide),
        ("separate_async", []),
        pytest.param("separate_async", ["model_engine=megatron"], marks=pytest.mark.wide),
        pytest.param("separate_async", ["trainer.n_gpus_per_node=2"], marks=pytest.mark.wide),
    ],
)
def test_stale_samples_are_weighed_against_the_policy_of_their_steps_start(
    tmp_path, mode, overrides
):
    found = run(tmp_path, mode, *overrides)
    assert set(found) == {1, 2, 3}
    # The first batch is of the first policy, for each of the step's updates: that policy is kept.
    assert found[1]["training/rollout_probs_diff_max"] < 1e-4
    assert found[1][ESS] == pytest.approx(1, abs=1e-6)
    assert found[1][LAG] == 0
    # Later ones are not where servers were ahead of it, and what that costs is told.
    stale = [step for step in found.values() if step[LAG] >= 1]
    assert stale
    for step in stale:
        assert 0.05 < step[ESS] < 1 - 1e-6
        assert step["training/rollout_probs_diff_max"] > 1e-3
    assert 0 < found[3]["verl_ext/val/toy/pass@8"] <= 1
