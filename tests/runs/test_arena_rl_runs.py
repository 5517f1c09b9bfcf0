"""Whole runs whose responses a judge ranks, over HTTP."""

import json
import re
import shutil

import pytest
from runs.launch import largest_move, same_weights, train, without_clocks

from verl_ext.toy import world

STEPS, SAVED = 3, 2
NAME = "verl_ext/tournament"
SECTION = "algorithm.verl_ext.group_reward.tournament"
CLOCKS = ("call_seconds",)
DIGITS = r'\{"first": [0-9], "second": [0-9]\}'
KEY = "sk-nobody-is-to-read-this"


def run(folder, *overrides):
    folder.mkdir()
    _, metrics = train(
        folder,
        "+paper=arena_rl",
        "+scale=cpu",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.total_training_steps={STEPS}",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        *overrides,
    )
    return {
        step: {
            name: value
            for name, value in without_clocks(values).items()
            if not name.endswith(CLOCKS)
        }
        for step, values in metrics.items()
    }


@pytest.mark.run
def test_a_judged_run_resumes_to_the_bit_whatever_the_judge_answers_first(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    judge = [
        f"{SECTION}.judge.api_key_env=TEST_JUDGE_KEY",
        f"+{SECTION}.simulated.key_env=TEST_JUDGE_KEY",
        f"+{SECTION}.simulated.position_bias=1.5",
    ]
    expected = run(whole, f"trainer.save_freq={SAVED}", *judge)
    assert set(expected) == {1, 2, 3}
    for step in expected.values():
        assert step["training/rollout_probs_diff_max"] < 1e-4
        assert step[f"{NAME}/void_share"] == step[f"{NAME}/void_groups"] == 0
        assert step[f"{NAME}/calls"] == 2 * step[f"{NAME}/comparisons"] > 60
        assert step[f"{NAME}/position_bias"] == pytest.approx(1.5, abs=0.5)
        assert 0 < step[f"{NAME}/noise"] < step[f"{NAME}/spread"]
        assert step["verl_ext/skipped_update"] == 0
    assert largest_move(whole, STEPS, "arena_rl") > 1e-3

    step_2 = f"trainer.resume_from_path={whole}/checkpoints/global_step_{SAVED}"
    resume = [f"trainer.save_freq={STEPS}", "trainer.resume_mode=resume_path", step_2]
    # Another judge of the same making, who answers slowly: what is first comes last.
    slow = f"+{SECTION}.simulated.faults={{shares: {{slow: 0.3}}, slow_s: 0.3}}"
    assert run(resumed, *resume, *judge, slow) == {STEPS: expected[STEPS]}
    assert same_weights(whole, resumed, STEPS)
    # Logs, configurations, checkpoints: the judge asked for the key, and nothing has it.
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


@pytest.mark.run
def test_a_dead_judge_teaches_nothing_on_megatron(tmp_path):
    found = run(
        tmp_path / "dead",
        "model_engine=megatron",
        "trainer.total_training_steps=2",
        "trainer.save_freq=2",
        f"{SECTION}.judge.attempts=1",
        f"+{SECTION}.simulated.faults={{shares: {{http_500: 1.0}}}}",
    )
    assert set(found) == {1, 2}
    for step in found.values():
        assert step["verl_ext/skipped_update"] == 1
        assert step["critic/advantages/max"] == step["critic/advantages/min"] == 0
        assert step[f"{NAME}/void_share"] == 1
        # Groups whose answers are all alike need no judge.
        assert step[f"{NAME}/void_groups"] > 0.8
        assert step[f"{NAME}/equal_groups"] == 1
        failed = [step.get(f"{NAME}/failed/{kind}", 0) for kind in ("http_error", "circuit_open")]
        assert sum(failed) == 1
        assert "actor/grad_norm" not in step
    assert largest_move(tmp_path / "dead", 2, "arena_rl") == 0


@pytest.mark.run
@pytest.mark.wide
@pytest.mark.parametrize("mode", ["sync", "separate_async"])
def test_a_policy_judges_its_own_responses(tmp_path, mode):
    """What it says of them is chance; that it is asked, over its own server, is not.

    With servers of their own, those on the trainer's devices sleep, and would let each call wait.
    """
    model = tmp_path / "model"
    shutil.copytree(world.ensure("arena_rl").model, model)
    config = json.loads((model / "config.json").read_text())
    longer = config | {"max_position_embeddings": 8192}  # a judge's prompt is some thousand bytes
    (model / "config.json").write_text(json.dumps(longer))
    found = run(
        tmp_path / "own",
        f"trainer.v1.trainer_mode=verl_ext.{mode}",
        f"algorithm.verl_ext.deterministic={str(mode == 'sync').lower()}",
        "trainer.total_training_steps=1",
        "trainer.save_freq=-1",
        f"actor_rollout_ref.model.path={model}",
        "actor_rollout_ref.rollout.max_model_len=8192",
        "data.max_response_length=64",  # of a judgement too: verl's server cuts off there
        f"{SECTION}.judge.base_url=policy",
        f"{SECTION}.judge.model={model}",
        f"{SECTION}.simulated=null",
        f"{SECTION}.judge.temperature=1.0",
        # It was never taught to end a number.
        f"+{SECTION}.judge.structured=none",
        f"+{SECTION}.judge.extra_body={{structured_outputs: {{regex: '{DIGITS}'}}}}",
    )
    step = found[1]
    assert step[f"{NAME}/calls"] > 30
    assert step[f"{NAME}/void_groups"] < 0.5
    assert step[f"{NAME}/spread"] > 0
    assert step["verl_ext/skipped_update"] < 1  # of the step's updates


def a_judge_that_fails(share, on_failure, *overrides):
    return (
        "trainer.total_training_steps=2",
        "trainer.save_freq=-1",
        f"{SECTION}.judge.attempts=1",
        f"+{SECTION}.simulated.faults={{shares: {{rejected: {share}}}}}",
        f"{SECTION}.on_failure={on_failure}",
        *overrides,
    )


@pytest.mark.run
@pytest.mark.wide
def test_dropped_groups_are_replaced_by_other_prompts(tmp_path):
    found = run(
        tmp_path / "dropped",
        *a_judge_that_fails(0.03, "drop_group"),
        f"{SECTION}.max_dropped=10",
        "algorithm.verl_ext.deterministic=false",
    )
    assert set(found) == {1, 2}
    for step in found.values():
        assert step[f"{NAME}/void_groups"] == 0  # whatever is in the batch was judged
        assert step["verl_ext/skipped_update"] == 0
    assert sum(step[f"{NAME}/replaced_groups"] for step in found.values()) > 3


@pytest.mark.run
@pytest.mark.wide
def test_a_failed_group_stops_the_run_by_name(tmp_path):
    with pytest.raises(AssertionError) as stopped:
        run(tmp_path / "stopped", *a_judge_that_fails(1.0, "raise"))
    assert "RolloutStopped" in str(stopped.value)
    assert re.search(r"the judge has failed for \d+ of \d+ comparisons", str(stopped.value))
    assert "on_failure=raise" in str(stopped.value)
    assert not (tmp_path / "stopped" / "run" / "metrics.jsonl").read_text()
