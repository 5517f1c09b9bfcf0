"""What a batch's pending rewards become, what is left out of it, and what is reported."""

import math

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters.reference_rewards.rewarded import TOKENIZER, WEIGHTS, Queue, trainer
from transfer_queue import KVBatchMeta

from verl_ext.adapters.reference_probability.report import REPORT
from verl_ext.adapters.rollout.reference_probability import UNSCORED, ScoringError
from verl_ext.adapters.rollout.stopping import PARTITION, RolloutStopped
from verl_ext.adapters.trainer import batch_fields
from verl_ext.adapters.trainer import reference_probability as stage


def parts(**values):
    plain = {"outcome": "ok", "probability": 0.5, "base": 0.3, "gain": 0.2, "below_base": False}
    return plain | {"format": 1.0, "repetition": 0.0, "reward": 0.28} | values


def pending(base=0.3):
    ids = TOKENIZER("[r]{ xyz }")["input_ids"]
    own = [4 < place < 8 for place in range(len(ids))]
    return {"response": "[r]{no}", "token_ids": ids, "reference": own, "base": base}


def rows(**reports):
    return {
        key: {
            "extra_fields": {REPORT: {"weights": WEIGHTS, "verifier": None} | report}
            if report
            else {},
            "rm_scores": torch.zeros(4),
            "prompts": torch.tensor([1, 2, 3]),
        }
        for key, report in reports.items()
    }


def batch_of(monkeypatch, queued):
    fake = Queue(queued)
    monkeypatch.setattr(stage, "tq", fake)
    monkeypatch.setattr(batch_fields, "tq", fake)
    tags = [{"seq_len": 7} for _ in queued]
    return fake, KVBatchMeta(keys=list(queued), tags=tags, partition_id="train")


def test_in_trainer_mode_the_engine_gives_the_pending_rewards(monkeypatch):
    queued = rows(u_0_0={}, u_0_1={"pending": pending()}, u_1_0={"parts": parts()}, v_0_0={})
    queued["u_1_0"]["rm_scores"][-1] = 0.28
    fake, batch = batch_of(monkeypatch, queued)
    made = trainer(mode="trainer")
    assert made._balance_batch(batch, {}).keys == batch.keys
    assert made.asked == 1
    reward = 0.9 * (math.exp(-0.1) - 0.3) + 0.1
    scores = {key: fake.rows[key]["rm_scores"].tolist() for key in batch.keys}
    assert scores["u_0_1"] == pytest.approx([0, 0, 0, reward])
    assert scores["u_0_0"] == scores["u_0_1"]  # an earlier output of the same session
    assert scores["u_1_0"] == pytest.approx([0, 0, 0, 0.28])
    assert scores["v_0_0"] == [0, 0, 0, 0]
    report = fake.rows["u_0_1"]["extra_fields"][REPORT]
    assert report["pending"] is None
    assert report["parts"]["reward"] == pytest.approx(reward)


def test_in_trainer_mode_a_response_without_a_number_leaves_with_its_session(monkeypatch, capsys):
    queued = rows(
        u_0_0={},
        u_0_1={"pending": pending()},
        u_1_0={"parts": parts()},
        u_2_0={"parts": parts()},
        v_0_0={"pending": pending()},
        v_1_0={"parts": parts()},
    )
    fake, batch = batch_of(monkeypatch, queued)
    made = trainer(mode="trainer")
    broken = torch.full((10,), math.nan)
    made.ext_actor_log_probs = lambda readings: [broken for _ in readings]
    left = made._balance_batch(batch, {})
    assert left.keys == ["u_1_0", "u_2_0"]  # v's other session has no sibling any more
    assert sorted(fake.cleared["train"]) == ["u_0_0", "u_0_1", "v_0_0", "v_1_0"]
    assert "invalid_log_prob 2" in capsys.readouterr().out
    metrics = {}
    made._compute_metrics(left, metrics)
    assert metrics["verl_ext/reference_probability/unscored/invalid_log_prob"] == 0.4
    assert metrics["verl_ext/reference_probability/unscored/alone"] == 0.2


def test_a_batch_that_nobody_could_score_stops_the_run(monkeypatch):
    _, batch = batch_of(monkeypatch, rows(u_0_0={"pending": pending()}))
    made = trainer(mode="trainer")
    made.ext_actor_log_probs = lambda readings: [torch.full((10,), math.nan)]
    with pytest.raises(ScoringError, match="invalid_log_prob 1"):
        made._balance_batch(batch, {})


def test_metrics_say_what_the_rewards_are_made_of(monkeypatch):
    bad = parts(outcome="invalid_format", probability=0.0, gain=0.0, format=0.0, reward=0.0)
    _, batch = batch_of(
        monkeypatch,
        rows(
            u_0_0={"parts": parts()},
            u_1_0={"parts": parts(probability=0.1, gain=0.0, below_base=True)},
            u_2_0={"parts": bad, "verifier": 0.5},
            v_0_0={},
        ),
    )
    made, metrics = trainer(), {}
    made._load_checkpoint()
    made._ext_unscored.update({"too_long": 1})
    made._compute_metrics(batch, metrics)
    name = "verl_ext/reference_probability"
    expected = {
        "asked": 0.75,
        "gain": 0.2 / 3,
        "format": 2 / 3,
        "repetition": 0.0,
        "invalid_format": 1 / 3,
        "probability": 0.3,
        "base": 0.3,
        "below_base": 0.5,
        "verifier": 0.5,
        "base_cache_hits": 0.0,
        **{f"unscored/{what}": 0.0 for what in stage.UNSCORED_NAMES},
        "unscored/too_long": 0.25,
    }
    assert metrics == {"verl": 1.0} | {
        f"{name}/{what}": pytest.approx(value) for what, value in expected.items()
    }


def test_the_buffer_tells_what_a_batch_is_without_and_forgets_it(monkeypatch, capsys):
    fake, _ = batch_of(monkeypatch, {})
    made = trainer()
    buffer = made._build_replay_buffer()
    buffer.tags = {
        "train": {"a_0_0": {}, "a_1_0": {}, "b_0_0": {}},
        UNSCORED: {
            "a_2": {"uid": "a", "outcome": "too_long"},
            "a_1": {"uid": "a", "outcome": "too_long"},  # asked again by a resumed run, and scored
            "gone_0": {"uid": "gone", "outcome": "too_long"},
            "b_1": {"uid": "b", "outcome": "invalid_log_prob"},
        },
    }
    buffer.prompt_global_steps["train"] = {"b": 3}
    buffer._sync_metadata_from_transfer_queue()
    uids, snapshot, _ = buffer._select_prompt_uids("train", {"a"}, 1)
    assert made._ext_missing == {"too_long": 1}
    assert "step 3: 1 of 3 responses have no reward and are left out: too_long 1" in (
        capsys.readouterr().out
    )
    buffer._materialize_batch("train", uids, snapshot)
    assert fake.cleared == {UNSCORED: ["a_1", "a_2", "gone_0"]}
    del buffer.tags[UNSCORED]
    buffer._select_prompt_uids("train", {"b"}, 1)
    assert made._ext_missing == {}


def test_what_is_missing_is_counted_over_the_updates_of_a_step(monkeypatch):
    """And whether a session is alone is a matter of the update that it is in."""
    queued = rows(**{f"{uid}_{n}_0": {"parts": parts()} for uid in "abcd" for n in range(2)})
    del queued["b_1_0"], queued["c_1_0"]  # a prompt of b has no reward, one of c has failed
    fake, batch = batch_of(monkeypatch, queued)
    made = trainer()
    made.batches = [
        batch.select_keys([key for key in batch.keys if key[0] in uids])
        for uids in ("a", "bd", "c")
    ]
    told = iter([[], ["too_long"], []])
    balance = made._balance_batch

    def sampled(part, metrics):
        made._ext_note(next(told), len(part.keys))
        return balance(part, metrics)

    made._balance_batch = sampled
    left = made.step({}, {})
    metrics = {}
    made._compute_metrics(left, metrics)
    assert fake.cleared["train"] == ["b_0_0"]
    unscored = {name.split("/")[-1]: v for name, v in metrics.items() if "/unscored/" in name and v}
    assert unscored == {"too_long": 1 / 7, "alone": 1 / 7}
    told = iter([[], [], []])
    made.step({}, {})
    assert made._ext_unscored == {}


def test_a_batch_without_a_single_scored_response_stops_the_run(monkeypatch):
    batch_of(monkeypatch, {})
    buffer = trainer()._build_replay_buffer()
    buffer.tags = {"train": {}, UNSCORED: {"a_0": {"uid": "a", "outcome": "too_long"}}}
    buffer._sync_metadata_from_transfer_queue()
    with pytest.raises(ScoringError, match="too_long 1"):
        buffer._select_prompt_uids("train", {"a"}, 1)


def test_a_worker_that_gave_up_stops_the_run(monkeypatch):
    buffer = trainer()._build_replay_buffer()
    buffer.tags = {PARTITION: {"worker": {"error": "the server is dead"}}}
    with pytest.raises(RolloutStopped, match="the server is dead"):
        buffer._sync_metadata_from_transfer_queue()


def test_the_section_brings_its_workers():
    made = trainer()
    agent = made.config.actor_rollout_ref.rollout.agent
    assert agent.agent_loop_manager_class.endswith("RolloutManager")
