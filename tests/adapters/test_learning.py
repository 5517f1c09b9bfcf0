"""The tasks, sessions and padding of a batch as an estimator sees them in verl's own stage."""

import random

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters.learning_queue import (
    EXPECTED,
    Base,
    Queue,
    approximately,
    batch_of_three_tasks,
    padding,
    row,
    scores,
    train,
)
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import trainer_base

from verl_ext.adapters.errors import SettingsError
from verl_ext.advantage_fns.task_norm import task_norm


def test_task_norm_reaches_verl_with_the_tasks_of_the_rows(monkeypatch):
    _, rows, _ = train(monkeypatch, batch_of_three_tasks())
    assert scores(rows) == approximately(EXPECTED)


def test_the_order_of_the_rows_changes_nothing(monkeypatch):
    order = list(EXPECTED)
    random.Random(0).shuffle(order)
    _, rows, _ = train(monkeypatch, batch_of_three_tasks(), order)
    assert scores(rows) == approximately(EXPECTED)


def test_verls_padding_rows_change_nothing_and_get_nothing(monkeypatch):
    rows = batch_of_three_tasks()
    rows = {f"pad0_{i}_0": padding(rows["b_1_0"]) for i in range(3)} | rows
    _, rows, _ = train(monkeypatch, rows)
    found = scores(rows)
    assert {key: found[key] for key in EXPECTED} == approximately(EXPECTED)
    assert all(found[f"pad0_{i}_0"] == 0 for i in range(3))


def test_a_session_in_several_outputs_counts_once_and_all_of_them_get_its_advantage(monkeypatch):
    rows = batch_of_three_tasks()
    # verl copies a session's score to each of its outputs; the fields of the last one count.
    rows["a_0_1"], rows["a_0_2"] = row("a", "mc", 1, [1, 1, 1]), row("a", "mc", 1, [0, 1])
    rows["b_1_1"] = row("b", "qa", 0.7, [1])
    _, rows, _ = train(monkeypatch, rows)
    more = {"a_0_1": EXPECTED["a_0_0"], "a_0_2": EXPECTED["a_0_0"], "b_1_1": EXPECTED["b_1_0"]}
    assert scores(rows) == approximately(EXPECTED | more)


def test_tokens_that_verl_rejects_leave_the_loss_and_not_the_statistics(monkeypatch):
    """A rejected response still says how hard its prompt is, as in verl's own GRPO."""
    rows = batch_of_three_tasks()
    rows["a_0_0"]["old_log_probs"] = torch.full((2,), 9.0)  # far from where it was sampled
    correction = {"rollout_rs": "token_k1", "rollout_rs_threshold": "0.1_10.0"}
    _, rows, _ = train(monkeypatch, rows, rest={"rollout_correction": correction})
    assert not rows["a_0_0"]["response_mask"].any()
    found = scores(rows)
    assert found.pop("a_0_0") == 0
    assert found == approximately({k: v for k, v in EXPECTED.items() if k != "a_0_0"})


def test_another_column_may_name_the_tasks(monkeypatch):
    rows = batch_of_three_tasks()
    for fields in rows.values():
        fields |= {"ability": fields["data_source"], "data_source": "same"}
    _, rows, _ = train(monkeypatch, rows, task_key="ability")
    assert scores(rows) == approximately(EXPECTED)


def test_without_our_trainer_an_estimator_that_declares_fields_refuses_with_the_line_to_add():
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    estimator = get_adv_estimator_fn("verl_ext.task_norm")
    with pytest.raises(SettingsError, match=r"trainer_mode=verl_ext\.sync"):
        estimator(torch.ones(1, 1), torch.ones(1, 1), index=["a"], config=OmegaConf.create({}))


def test_a_stock_estimator_sees_what_it_saw_before(monkeypatch):
    rows = batch_of_three_tasks()
    _, ours, _ = train(monkeypatch, rows, estimator="grpo")
    expected = scores(ours)
    stock, stock_rows = Base(None), Queue({key: dict(fields) for key, fields in rows.items()})
    monkeypatch.setattr(trainer_base, "tq", stock_rows)
    stock.config = OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "grpo", "use_kl_in_reward": False, "gamma": 1.0, "lam": 1.0,
            },
            "actor_rollout_ref": {"rollout": {"n": 1}},
        }
    )  # fmt: skip
    tags = [fields["tag"] for fields in rows.values()]
    stock._compute_advantage(KVBatchMeta(list(rows), tags, partition_id="train"), {})
    assert scores(stock_rows.rows) == expected


def test_the_stage_gives_the_pure_functions_numbers(monkeypatch):
    """Random batches, rows shuffled, some sessions cut, padding in between."""
    draw = random.Random(1)
    for _ in range(20):
        whole, rows = [], {}
        for session in range(draw.randint(2, 12)):
            uid, task = draw.choice("abc"), draw.choice("xy")
            reward = draw.choice([0.0, 0.5, 1.0, 10.0])
            whole.append((uid, task, reward))
            for output in range(draw.randint(1, 3)):
                fields = row(uid, task, reward, [1] * draw.randint(1, 4))
                rows[f"{uid}_{session}_{output}"] = fields
        rows["pad0_0_0"] = padding(fields)
        order = draw.sample(list(rows), len(rows))
        _, rows, _ = train(monkeypatch, rows, order)
        uids, tasks, rewards = zip(*whole, strict=True)
        outcomes = torch.tensor(rewards).unsqueeze(-1)
        expected, _ = task_norm(outcomes, torch.ones_like(outcomes), uids, tasks)
        found = scores(rows)
        for key, value in found.items():
            wanted = 0.0 if key == "pad0_0_0" else expected[int(key.split("_")[1]), 0].item()
            assert value == pytest.approx(wanted, rel=1e-5, abs=1e-6)
