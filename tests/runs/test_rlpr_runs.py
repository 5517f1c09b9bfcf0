"""Whole runs that are rewarded by the reference answer's probability."""

import json
import signal

import pytest
from runs import killing_reward
from runs.launch import largest_move, same_weights, train, without_clocks

STEPS, SAVED = 3, 2
NAME = "verl_ext/reference_probability"


def run(folder, *overrides):
    folder.mkdir()
    _, metrics = train(
        folder,
        "+paper=rlpr",
        "+scale=cpu",
        "algorithm.verl_ext.masks.std_filter.warmup_from=1",
        "algorithm.verl_ext.masks.std_filter.warmup_to=1",  # filters in the steps after it
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.rollout_data_dir={folder}/rollouts",
        f"trainer.total_training_steps={STEPS}",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        *overrides,
    )
    return {step: without_clocks(values) for step, values in metrics.items()}


def rollouts(folder, step):
    """Prompt and response of each row of a step -> its rewards."""
    lines = (folder / "rollouts" / f"{step}.jsonl").read_text().splitlines()
    found = {}
    for record in map(json.loads, lines):
        found.setdefault((record["input"], record["output"]), []).append(record["score"])
    return found


@pytest.mark.run
def test_a_run_with_probabilities_and_filter_resumes_to_the_bit(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = run(whole, f"trainer.save_freq={SAVED}")
    assert set(expected) == {1, 2, 3}
    for step in expected.values():
        assert step["training/rollout_probs_diff_max"] < 1e-4
        assert step[f"{NAME}/asked"] == 1
        assert 0 < step[f"{NAME}/base"] < step[f"{NAME}/probability"] < 1
        assert 0 < step[f"{NAME}/gain"] < 1
        assert step[f"{NAME}/invalid_format"] < 0.1
        assert not any(step[name] for name in step if "/unscored/" in name)
    assert expected[3]["verl_ext/std_filter/threshold"] > 0
    assert largest_move(whole, STEPS, "rlpr") > 1e-3

    step_2 = f"trainer.resume_from_path={whole}/checkpoints/global_step_{SAVED}"
    resume = [f"trainer.save_freq={STEPS}", "trainer.resume_mode=resume_path", step_2]
    found = run(resumed, *resume)
    hits = f"{NAME}/base_cache_hits"  # the first run may have filled the cache
    assert found[STEPS].pop(hits) == 1
    expected[STEPS].pop(hits)
    assert found == {STEPS: expected[STEPS]}
    assert same_weights(whole, resumed, STEPS)


@pytest.mark.run
def test_server_and_training_engine_give_the_same_reward(tmp_path):
    """The same responses, sampled on one seed; the second run on Megatron."""
    mode = "algorithm.verl_ext.group_reward.reference_probability.mode"
    filtered = "algorithm.verl_ext.masks.std_filter.mode=mask"  # rewards come after sampling
    short = ["trainer.save_freq=-1", "trainer.total_training_steps=1", filtered]
    server, engine = tmp_path / "server", tmp_path / "engine"
    run(server, *short, f"{mode}=rollout")
    metrics = run(engine, *short, f"{mode}=trainer", "model_engine=megatron")
    of_server, of_engine = rollouts(server, 1), rollouts(engine, 1)
    assert of_server.keys() == of_engine.keys()
    assert len(of_server) > 32
    for row, rewards in of_server.items():
        assert of_engine[row] == pytest.approx(rewards, abs=1e-5)
    assert len({round(reward, 3) for rewards in of_server.values() for reward in rewards}) > 32
    assert metrics[1][f"{NAME}/asked"] == 1


@pytest.mark.run
@pytest.mark.wide
def test_a_policy_server_that_dies_stops_the_run_and_not_a_step_later(tmp_path, monkeypatch):
    """It dies as the second step's first response comes to its verifier; others are sampled then.

    Whoever misses it first has the word: the scoring of a response, in ours, or the trainer, in
    Ray's.
    """
    monkeypatch.setenv(killing_reward.AT_CALL, str(16 * 8 + 1))
    monkeypatch.setenv(killing_reward.SERVER, killing_reward.POLICY)
    monkeypatch.setenv(killing_reward.SIGNAL, str(int(signal.SIGKILL)))
    weights = "algorithm.verl_ext.group_reward.reference_probability.weights"
    with pytest.raises(AssertionError) as stopped:  # launch.train's, about the exit code
        run(
            tmp_path / "run",
            f"{weights}={{default: {{probability: 1, verifier: 1}}}}",
            f"reward.custom_reward_function.path={killing_reward.__file__}",
            "trainer.save_freq=-1",
        )
    words = str(stopped.value)
    assert "ActorDied" in words
    assert "vllm_server_0_0" in words or "the policy's server could not score" in words
    lines = (tmp_path / "run" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]
