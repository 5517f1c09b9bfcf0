"""A whole run whose reward is NaN: it stops in that step, and one command makes the NaN again."""

import pytest
from runs.launch import train

from verl_ext.cli.main import main

REWARD = """
def score(data_source, solution_str, ground_truth, extra_info=None, **more):
    return float("nan") if len(solution_str) % 2 else 1.0
"""


@pytest.mark.run
@pytest.mark.wide
def test_a_reward_that_is_none_stops_the_run_and_is_replayed(tmp_path, capsys):
    (tmp_path / "reward.py").write_text(REWARD)
    with pytest.raises(AssertionError) as stopped:
        train(
            tmp_path,
            "+paper=aepo",
            "+scale=cpu",
            "algorithm.adv_estimator=grpo",
            f"reward.custom_reward_function.path={tmp_path}/reward.py",
            "reward.custom_reward_function.name=score",
            "trainer.total_training_steps=2",
            "trainer.val_before_train=false",
            "trainer.test_freq=-1",
        )
    file = tmp_path / "run" / "not_finite_step_1_rewards.pt"
    words = " ".join(str(stopped.value).split())
    assert "NotFiniteError" in words
    assert f"verl-ext replay {file}" in words
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()
    assert main(["replay", str(file)]) == 0
    assert "no number again" in capsys.readouterr().out
