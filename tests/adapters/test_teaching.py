"""A teacher's part of the advantage, around verl's own stage, on a queue in memory."""

import math

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from adapters import learning_queue as queue
from adapters.teaching_config import config
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.trainer import batch_fields, learning, teaching

STUDENT = [[-0.5, -1.0, -0.2], [-0.1, -2.0]]
TEACHER = [[-0.7, -0.4, -0.2], [-1.1, -0.5]]
REWARDS = [1.0, 0.0]


class Trainer(learning.Learning, teaching.Teaching, queue.Base):
    base_mode = "sync"


def rows(**fields):
    made = {}
    for place, reward in enumerate(REWARDS):
        own = {name: torch.tensor(values[place]) for name, values in fields.items()}
        response = [1] * len(STUDENT[place])
        made[f"a_{place}_0"] = queue.row("a", "toy", reward, response, **own)
    return made


def advantages(monkeypatch, made, stored, trainer=Trainer):
    """What the stage and the update write, row by row, and the metrics."""
    fake = queue.Queue(stored)
    for module in (queue.trainer_base, batch_fields):
        monkeypatch.setattr(module, "tq", fake)
    run, metrics = trainer(made), {}
    tags = [values["tag"] for values in stored.values()]
    batch = KVBatchMeta(keys=list(stored), tags=tags, partition_id="train")
    run._update_actor(run._compute_advantage(batch, metrics), metrics)
    return {key: values["advantages"].tolist() for key, values in stored.items()}, metrics


def gaps(sign=-1.0):
    pairs = zip(STUDENT, TEACHER, strict=True)
    return [[sign * (s - t) for s, t in zip(own, other, strict=True)] for own, other in pairs]


def near(values):
    return pytest.approx(values, abs=1e-6)


def test_alone_the_teacher_judges_each_token(monkeypatch):
    stored = rows(old_log_probs=STUDENT, ref_log_prob=TEACHER)
    written, metrics = advantages(monkeypatch, config(teacher={}), stored)
    assert written == {"a_0_0": near(gaps()[0]), "a_1_0": near(gaps()[1])}
    flat = [gap for row in gaps(+1.0) for gap in row]
    assert metrics["verl_ext/teacher/reverse_kl"] == near(sum(flat) / len(flat))
    assert metrics["verl_ext/teacher/non_finite"] == 0.0


@pytest.mark.parametrize("task", ["grpo", "rloo", "reinforce_plus_plus_baseline"])
def test_a_tasks_advantages_are_those_of_its_estimator_plus_the_teachers(monkeypatch, task):
    stored = rows(old_log_probs=STUDENT, ref_log_prob=TEACHER)
    alone = config(estimator=task)
    del alone.algorithm.verl_ext
    of_task, _ = advantages(monkeypatch, alone, rows())
    mixed = config(teacher={}, task_estimator=task, task_weight=0.5, coef=2.0)
    written, _ = advantages(monkeypatch, mixed, stored)
    for place, key in enumerate(of_task):
        pairs = zip(of_task[key], gaps()[place], strict=True)
        assert written[key] == near([0.5 * a + 2.0 * gap for a, gap in pairs])
    assert any(value != 0 for value in of_task["a_0_0"])


def test_an_estimator_of_ours_gets_its_fields_and_its_own_arguments(monkeypatch):
    arguments = {"singleton": "paper", "eps": 1.0}
    alone = config(estimator="verl_ext.task_norm", **arguments)
    of_task, _ = advantages(monkeypatch, alone, rows())
    mixed = config(
        teacher={}, coef=0.0, task_estimator="verl_ext.task_norm", task_arguments=arguments
    )
    stored = rows(old_log_probs=STUDENT)  # the teacher is not asked
    written, metrics = advantages(monkeypatch, mixed, stored)
    assert written == of_task
    assert "verl_ext/teacher/reverse_kl" not in metrics


def test_the_configuration_is_as_before_when_the_task_has_had_its_turn(monkeypatch):
    made = config(teacher={}, task_estimator="grpo", task_weight=0.5)
    before = OmegaConf.to_container(made.algorithm)
    advantages(monkeypatch, made, rows(old_log_probs=STUDENT, ref_log_prob=TEACHER))
    assert OmegaConf.to_container(made.algorithm) == before


def test_the_students_log_probs_are_the_engines_or_the_samplers(monkeypatch):
    stored = rows(rollout_log_probs=STUDENT, ref_log_prob=TEACHER)
    made = config(teacher={}, log_probs="rollout")
    written, _ = advantages(monkeypatch, made, stored)
    assert written["a_0_0"] == near(gaps()[0])


def test_what_is_not_finite_becomes_the_floor_and_is_counted(monkeypatch):
    broken = [[-0.7, -math.inf, math.nan], [-1.1, -0.5]]
    stored = rows(old_log_probs=STUDENT, ref_log_prob=broken)
    written, metrics = advantages(monkeypatch, config(teacher={"log_prob_floor": -5.0}), stored)
    assert written["a_0_0"] == near([-0.2, -5.0 + 1.0, -5.0 + 0.2])
    assert metrics["verl_ext/teacher/non_finite"] == near(2 / 5)


def test_a_server_speaks_of_the_next_token(monkeypatch):
    full = [[9.0, 9.0, *row, 9.0] for row in TEACHER]  # prompts of three tokens
    stored = rows(old_log_probs=STUDENT)
    for place, values in enumerate(stored.values()):
        values["teacher_logprobs"] = torch.tensor(full[place]).unsqueeze(-1)
    made = config(teacher={"source": "server", "path": None})
    written, metrics = advantages(monkeypatch, made, stored)
    assert written == {"a_0_0": near(gaps()[0]), "a_1_0": near(gaps()[1])}
    assert "verl_ext/teacher/non_finite" not in metrics  # counted where it was asked


def test_rows_whose_teacher_failed_leave_the_loss(monkeypatch):
    class Dropping(Trainer):
        def ext_dropped_rows(self, batch):
            return torch.tensor([True, False])

    stored = rows(old_log_probs=STUDENT, ref_log_prob=TEACHER)
    written, metrics = advantages(monkeypatch, config(teacher={}), stored, Dropping)
    assert written == {"a_0_0": [0.0, 0.0, 0.0], "a_1_0": near(gaps()[1])}
    for name in ("response_mask", "loss_mask"):
        assert stored["a_0_0"][name].tolist() == [0, 0, 0]
        assert stored["a_1_0"][name].tolist() == [1, 1]
    assert metrics["verl_ext/teacher/reverse_kl"] == near(sum(gaps(+1.0)[1]) / 2)


@pytest.mark.parametrize("divergence", [None, {"top_k": 4}])
def test_a_batch_without_advantages_is_skipped_unless_the_loss_has_another_term(
    monkeypatch, divergence
):
    class Dropping(Trainer):
        def ext_dropped_rows(self, batch):
            return torch.tensor([True, False])

    stored = rows(old_log_probs=STUDENT)
    made = config(teacher={}, divergence=divergence, coef=0.0)
    fake = queue.Queue(stored)
    for module in (queue.trainer_base, batch_fields):
        monkeypatch.setattr(module, "tq", fake)
    run, metrics = Dropping(made), {}
    tags = [values["tag"] for values in stored.values()]
    batch = KVBatchMeta(keys=list(stored), tags=tags, partition_id="train")
    run._update_actor(run._compute_advantage(batch, metrics), metrics)
    assert metrics["verl_ext/skipped_update"] == float(divergence is None)
    assert run.updated == ([] if divergence is None else [["a_1_0"]])


def test_a_stock_trainer_is_refused_with_the_line_to_add():
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    ones = torch.ones(1, 2)
    with pytest.raises(SettingsError, match=r"teacher_log_probs .*trainer_mode=verl_ext\.sync"):
        get_adv_estimator_fn("verl_ext.opd")(token_level_rewards=ones, response_mask=ones)
