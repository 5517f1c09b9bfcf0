"""Which workers a teacher brings into verl's trainer, and when they are asked."""

from types import SimpleNamespace

import pytest
import ray
import verl  # loads the plugin  # noqa: F401
from adapters import learning_queue as queue
from adapters.teaching_config import config
from verl.trainer.ppo.utils import Role

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.teacher import workers
from verl_ext.adapters.trainer import teaching


class Pools(queue.Base):
    """verl's table of worker roles."""

    def __init__(self, config):
        self.use_reference_policy = False
        super().__init__(config)

    def _init_resource_pool_mgr(self):
        self.role_worker_mapping = {Role.ActorRollout: "verl's", Role.Critic: "critic"}
        self.mapping = {Role.ActorRollout: "global_pool", Role.Critic: "global_pool"}


@pytest.mark.parametrize(
    ("mode", "worker"),
    [("sync", workers.TaughtWorker), ("separate_async", workers.TaughtDetachedWorker)],
)
def test_a_reference_teacher_lives_beside_the_actor(monkeypatch, mode, worker):
    monkeypatch.setattr(ray, "remote", lambda cls: cls)
    cls = type("T", (teaching.Teaching, Pools), {"base_mode": mode})
    run = cls(config(teacher={}, divergence={"top_k": 4}))
    run._init_resource_pool_mgr()
    assert run.role_worker_mapping == {Role.ActorRolloutRef: worker, Role.Critic: "critic"}
    assert run.mapping == dict.fromkeys(run.role_worker_mapping, "global_pool")
    assert run.use_reference_policy
    told = run.config.actor_rollout_ref.rollout.custom.verl_ext
    assert told.teacher_path == "/models/teacher"
    assert told.divergence.top_k == 4


def test_a_reference_teacher_without_a_path_is_never_the_student_itself():
    cls = type("T", (teaching.Teaching, Pools), {"base_mode": "sync"})
    with pytest.raises(SettingsError, match="whose weights"):
        cls(config(teacher={"path": None}))


def test_what_else_a_user_tells_the_workers_stays(monkeypatch):
    monkeypatch.setattr(ray, "remote", lambda cls: cls)
    cls = type("T", (teaching.Teaching, Pools), {"base_mode": "sync"})
    run = cls(config(teacher={}, rollout={"custom": {"theirs": 1}}))
    assert run.config.actor_rollout_ref.rollout.custom.theirs == 1


def test_servers_need_no_reference_worker(monkeypatch):
    monkeypatch.setattr(ray, "remote", lambda cls: cls)
    cls = type("T", (teaching.Teaching, Pools), {"base_mode": "sync"})
    run = cls(config(teacher={"source": "server", "path": None}))
    run._init_resource_pool_mgr()
    assert run.role_worker_mapping[Role.ActorRollout] is workers.TaughtWorker
    assert not run.use_reference_policy


@pytest.mark.parametrize(
    ("teacher", "coef", "asked"),
    [
        ({}, 1.0, True),
        ({}, 0.0, False),  # the divergence reads logits
        ({"source": "server", "path": None}, 0.0, True),  # then it is the reference policy's
    ],
)
def test_the_reference_worker_is_asked_where_somebody_reads_what_it_says(teacher, coef, asked):
    class Asked(queue.Base):
        def _compute_ref_log_prob(self, batch, metrics):
            return "asked"

    cls = type("T", (teaching.Teaching, Asked), {"base_mode": "sync"})
    divergence = {"top_k": 4, "support": "teacher"}
    run = cls(config(teacher=teacher, divergence=divergence, coef=coef))
    assert run._compute_ref_log_prob("batch", {}) == ("asked" if asked else "batch")


def test_without_a_teacher_nothing_changes():
    cls = type("T", (teaching.Teaching, Pools), {"base_mode": "sync"})
    run = cls(config(estimator="grpo"))
    run._init_resource_pool_mgr()
    assert run.role_worker_mapping[Role.ActorRollout] == "verl's"
    assert "custom" not in run.config.actor_rollout_ref.rollout


def test_metrics_of_the_loss_lose_the_prefix_that_verl_gives_them():
    class Updating:
        def __init__(self, config):
            self.config = config

        def _update_actor(self, batch, metrics):
            metrics.update({"actor/verl_ext/divergence/loss": 1.0, "actor/lr": 2.0})
            return batch

    cls = type("T", (teaching.Teaching, Updating), {"base_mode": "sync"})
    metrics = {}
    cls(config(estimator="grpo"))._update_actor(SimpleNamespace(), metrics)
    assert metrics == {"verl_ext/divergence/loss": 1.0, "actor/lr": 2.0}
