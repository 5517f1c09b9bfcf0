"""verl's own advantage stage with ours around it, on a queue in memory: no Ray, no model."""

import random
from types import SimpleNamespace

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import FixedKLController
from verl.trainer.ppo.v1 import trainer_base

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.trainer import batch_fields, learning
from verl_ext.advantage_fns.task_norm import task_norm


class Queue:
    """Just enough of TransferQueue: rows by key, fields by name, missing fields left out."""

    def __init__(self, rows):
        self.rows = rows

    def kv_batch_get(self, keys, partition_id, select_fields):
        there = [name for name in select_fields if name in self.rows[keys[0]]]
        return TensorDict({name: self.column(keys, name) for name in there}, batch_size=len(keys))

    def column(self, keys, name):
        values = [self.rows[key][name] for key in keys]
        if isinstance(values[0], torch.Tensor):
            return torch.nested.as_nested_tensor(values, layout=torch.jagged)
        return NonTensorStack(*values)

    def kv_batch_put(self, keys, partition_id, fields, tags=None):
        for name in fields.keys():  # noqa: SIM118
            for key, value in zip(keys, fields[name].unbind(), strict=True):
                self.rows[key][name] = value
        tags = [self.rows[key]["tag"] for key in keys]
        return KVBatchMeta(keys=list(keys), tags=tags, partition_id="train")


class Base:
    """verl's advantage stage; the update is only recorded."""

    _compute_advantage = trainer_base.PPOTrainer._compute_advantage

    def __init__(self, config):
        self.config, self.global_steps, self.updated = config, 1, []
        self.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0]})

    def _update_actor(self, batch, metrics):
        self.updated.append(list(batch.keys))

    def step(self, metrics, timing_raw):
        return None


class Trainer(learning.Learning, Base):
    pass


def row(uid, task, reward, response, **more):
    """A row as the agent loops leave it; ``response`` is its mask."""
    mask = torch.tensor(response)
    score = torch.zeros(len(response))
    score[-1] = reward
    zeros = torch.zeros(len(response))
    return {
        "uid": uid,
        "data_source": task,
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": score,
        "old_log_probs": zeros,
        "rollout_log_probs": zeros,
        "entropy": torch.full((len(response),), 0.5),
        "tag": {"seq_len": len(response) + 3},
    } | more


def padding(like):
    """A row as verl appends it: the fields of another one, nothing sampled, nothing scored."""
    empty = row("pad0", like["data_source"], 0.0, [0])
    return like | empty | {"tag": {"seq_len": 128, "is_padding": True}}


def batch_of_three_tasks():
    """Methods.md's first vector with responses of different lengths, and a tool's answer."""
    rewards = [1, 0, 0, 1, 0.9, 0.7, 0.8, 0.8, 1, 1, 1, 1]
    lengths = [2, 3, 1, 4, 2, 2, 3, 1, 2, 4, 1, 2]
    rows = {}
    for place, (uid, reward, length) in enumerate(
        zip("aaaabbbbcccc", rewards, lengths, strict=True)
    ):
        task = "mc" if uid == "a" else "qa"
        response = [1, 0, 1, 1][:length] if length == 4 else [1] * length
        rows[f"{uid}_{place % 4}_0"] = row(uid, task, reward, response)
    return rows


MC, QA = 0.57735026919, 0.11952286094  # unbiased deviations of the two tasks
EXPECTED = {
    "a_0_0": 0.5 / MC, "a_1_0": -0.5 / MC, "a_2_0": -0.5 / MC, "a_3_0": 0.5 / MC,
    "b_0_0": 0.1 / QA, "b_1_0": -0.1 / QA, "b_2_0": 0.0, "b_3_0": 0.0,
    "c_0_0": 0.0, "c_1_0": 0.0, "c_2_0": 0.0, "c_3_0": 0.0,
}  # fmt: skip


def train(
    monkeypatch, rows, order=None, estimator="verl_ext.task_norm", rest=None, state=None, **ours
):
    """Runs the advantage stage; returns the trainer, the queue and the metrics."""
    config = OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": estimator,
                "use_kl_in_reward": False,
                "gamma": 1.0,
                "lam": 1.0,
                "verl_ext": ours,
                **(rest or {}),
            },
            "actor_rollout_ref": {
                "actor": {"ppo_mini_batch_size": 1},
                "rollout": {"n": 1},
            },
        }
    )
    queue = Queue({key: dict(fields) for key, fields in rows.items()})
    monkeypatch.setattr(batch_fields, "tq", queue)
    monkeypatch.setattr(trainer_base, "tq", queue)
    keys = order or list(rows)
    batch = KVBatchMeta(
        keys=keys, tags=[queue.rows[key]["tag"] for key in keys], partition_id="train"
    )
    made, metrics = Trainer(config), {}
    made.ext_restore(state or {})
    made._update_actor(made._compute_advantage(batch, metrics), metrics)
    return made, queue.rows, metrics


def scores(rows):
    """Each row's advantage, which all its sampled tokens share; masked tokens have none."""
    result = {}
    for key, fields in rows.items():
        sampled = fields["response_mask"].bool()
        assert not fields["advantages"][~sampled].any()
        values = fields["advantages"][sampled].unique().tolist() or [0.0]
        assert len(values) == 1
        result[key] = values[0]
    return result


def approximately(expected):
    return {key: pytest.approx(value, abs=2e-5) for key, value in expected.items()}


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
