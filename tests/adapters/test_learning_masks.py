"""AEPO and the std filter as masks in verl's own advantage stage."""

import random

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters.learning_queue import EXPECTED, Base, batch_of_three_tasks, padding, row, train
from verl.trainer.ppo.core_algos import FixedKLController

AEPO = {"aepo": {"low": 0.1, "high": 0.4}}  # the entropy of every token is 0.5: masking is on


def test_aepo_withholds_negative_advantages_and_divides_by_all_tokens(monkeypatch):
    made, rows, metrics = train(monkeypatch, batch_of_three_tasks(), masks=AEPO)
    expected = {key: max(value, 0.0) for key, value in EXPECTED.items()}
    for key, fields in rows.items():
        assert fields["advantages"].max().item() == pytest.approx(expected[key], abs=2e-5)
        assert fields["advantages"].min() >= 0
        assert torch.equal(fields["response_mask"], batch_of_three_tasks()[key]["response_mask"])
        assert torch.equal(fields["loss_mask"], fields["response_mask"])
    assert metrics["verl_ext/aepo/gate_on"] == 1.0
    assert len(made.updated[0]) == 12


def test_aepo_over_kept_tokens_takes_the_rows_out_of_the_update(monkeypatch):
    masks = {"aepo": AEPO["aepo"] | {"denominator": "kept"}}
    made, rows, _ = train(monkeypatch, batch_of_three_tasks(), masks=masks)
    withheld = {"a_1_0", "a_2_0", "b_1_0"}
    assert set(made.updated[0]) == set(EXPECTED) - withheld
    for key in withheld:
        assert not rows[key]["response_mask"].any()
        assert not rows[key]["loss_mask"].any()


def test_the_entropy_of_a_batch_does_not_depend_on_how_sessions_are_cut(monkeypatch):
    """One session of entropies .4 .4 .1 .1, one of .9: as one row each, or the first as two."""
    whole = {
        "a_0_0": row("a", "t", 1, [1] * 4, entropy=torch.tensor([0.4, 0.4, 0.1, 0.1])),
        "a_1_0": row("a", "t", 0, [1], entropy=torch.tensor([0.9])),
    }
    cut = {
        "a_0_0": row("a", "t", 1, [1] * 3, entropy=torch.tensor([0.4, 0.4, 0.1])),
        "a_0_1": row("a", "t", 1, [1], entropy=torch.tensor([0.1])),
        "a_1_0": whole["a_1_0"],
        "pad0_0_0": padding(whole["a_1_0"]),
    }
    for rows in (whole, cut):
        _, _, metrics = train(monkeypatch, rows, masks=AEPO)
        assert metrics["verl_ext/aepo/batch_entropy"] == pytest.approx((0.25 + 0.9) / 2)


def test_a_batch_of_mistakes_alone_is_skipped_said_and_left_whole(monkeypatch, capsys):
    rows = {key: row(key[0], "t", 0, [1, 1]) for key in ("a_0_0", "b_0_0")}
    made, rows, metrics = train(monkeypatch, rows, estimator="verl_ext.w_reinforce", masks=AEPO)
    assert made.updated == []
    assert metrics["verl_ext/skipped_update"] == 1.0
    assert all(fields["response_mask"].all() for fields in rows.values())  # verl's metrics divide
    assert "nothing left to learn from" in capsys.readouterr().out


def test_masks_find_loss_mask_and_response_mask_equal_after_a_rejection(monkeypatch):
    """verl reduces response_mask alone, and divides by loss_mask."""
    rows = batch_of_three_tasks()
    rows["a_0_0"]["old_log_probs"] = torch.full((2,), 9.0)
    correction = {"rollout_rs": "token_k1", "rollout_rs_threshold": "0.1_10.0"}
    _, rows, _ = train(monkeypatch, rows, rest={"rollout_correction": correction}, masks=AEPO)
    for fields in rows.values():
        assert torch.equal(fields["loss_mask"], fields["response_mask"])
    assert not rows["a_0_0"]["loss_mask"].any()


# Unbiased deviations of the batch of three tasks: √(1/3), √(.02/3), 0; β times their mean is .1648.
STD_FILTER = {"std_filter": {"mode": "mask", "beta": 0.75, "warmup_from": 1, "warmup_to": 1}}


def filtered(monkeypatch, rows, order=None, estimator="grpo", rest=None, **settings):
    """A second step on the same batch, after a first one that was the filter's warm-up."""
    masks = {"std_filter": STD_FILTER["std_filter"] | settings}
    state = {}
    for _ in range(2):
        made, found, metrics = train(
            monkeypatch, rows, order, estimator, rest, state=state, masks=masks
        )
        made.step(metrics, {})
        state = made.ext_state()
    return made.updated[0], found, metrics


def test_prompts_below_the_threshold_leave_the_loss_and_the_update(monkeypatch):
    trained, rows, metrics = filtered(monkeypatch, batch_of_three_tasks())
    assert {key[0] for key in trained} == {"a"}
    for key, fields in rows.items():
        kept = key[0] == "a"
        expected = batch_of_three_tasks()[key]["response_mask"] * kept
        assert torch.equal(fields["response_mask"], expected)
        assert torch.equal(fields["loss_mask"], expected)
        assert bool(fields["advantages"].any()) is kept
    assert metrics["verl_ext/std_filter/kept"] == 1 / 3
    stds = [3**-0.5, (0.02 / 3) ** 0.5, 0]
    assert metrics["verl_ext/std_filter/mean_std"] == pytest.approx(sum(stds) / 3, rel=1e-6)
    assert metrics["verl_ext/std_filter/threshold"] == pytest.approx(0.75 * sum(stds) / 3, rel=1e-6)


def test_the_filter_over_all_tokens_leaves_the_denominator_alone(monkeypatch):
    trained, rows, _ = filtered(monkeypatch, batch_of_three_tasks(), denominator="all")
    assert len(trained) == 12
    assert not any(rows[f"b_{i}_0"]["advantages"].any() for i in range(4))
    assert rows["a_0_0"]["advantages"].any()


@pytest.mark.parametrize("estimator", ["grpo", "verl_ext.task_norm", "verl_ext.w_reinforce"])
def test_the_filter_counts_sessions_once_and_padding_never(monkeypatch, estimator):
    rows = {key: row for key, row in batch_of_three_tasks().items() if key[0] != "b"}
    _, _, expected = filtered(monkeypatch, rows, estimator=estimator)
    rows["a_0_1"], rows["a_0_2"] = row("a", "mc", 1, [1, 1, 1]), row("a", "mc", 1, [0, 1])
    rows = {"pad0_0_0": padding(rows["c_1_0"])} | rows
    order = random.Random(0).sample(list(rows), len(rows))
    _, rows, metrics = filtered(monkeypatch, rows, order, estimator)
    names = [f"verl_ext/std_filter/{what}" for what in ("kept", "mean_std", "threshold")]
    assert [metrics[name] for name in names] == [expected[name] for name in names]
    assert rows["a_0_1"]["response_mask"].any()


def test_the_filter_judges_rewards_before_a_kl_penalty_and_scores_on_masked_tokens(monkeypatch):
    rows = batch_of_three_tasks()
    for place, fields in enumerate(rows.values()):
        fields["ref_log_prob"] = torch.full(fields["response_mask"].shape, -5.0 * place)
    rows["a_3_0"]["response_mask"] = torch.tensor([1, 0, 1, 0])  # cut inside a tool's answer
    _, _, expected = filtered(monkeypatch, batch_of_three_tasks())
    monkeypatch.setattr(Base, "kl_ctrl_in_reward", FixedKLController(0.5), raising=False)
    rest = {"use_kl_in_reward": True, "kl_penalty": "kl"}
    _, rows, metrics = filtered(monkeypatch, rows, rest=rest)
    assert rows["b_2_0"]["token_level_rewards"].sum() != pytest.approx(0.8)
    assert metrics["verl_ext/std_filter/mean_std"] == expected["verl_ext/std_filter/mean_std"]


def test_the_tasks_of_multipliers_are_those_of_the_task_key(monkeypatch):
    multipliers = {"mc": 0.25, "qa": 4.0}
    trained, _, _ = filtered(monkeypatch, batch_of_three_tasks(), task_multipliers=multipliers)
    assert {key[0] for key in trained} == {"b"}


AEPO_KEPT = {"aepo": AEPO["aepo"] | {"denominator": "kept"}}


@pytest.mark.parametrize("masks", [AEPO_KEPT, STD_FILTER], ids=["aepo", "std_filter"])
def test_a_critic_learns_from_what_the_actor_is_spared(monkeypatch, masks):
    """Nothing fills its mini-batches up: one without a counted token would be 0/0."""
    first, *_ = train(monkeypatch, batch_of_three_tasks(), masks=masks)  # the filter's warm-up
    first.step({}, {})
    state = first.ext_state()
    made, rows, _ = train(monkeypatch, batch_of_three_tasks(), state=state, masks=masks)
    assert not all(fields["loss_mask"].any() for fields in rows.values())
    for key, fields in made.of_critic.items():
        sampled = batch_of_three_tasks()[key]["response_mask"]
        assert torch.equal(fields["response_mask"], sampled)
        assert torch.equal(fields["loss_mask"], sampled)
