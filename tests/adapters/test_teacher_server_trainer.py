"""The trainer of a run with teacher servers: its workers, dropped rows, metrics and refusals."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.rollout import stopping, teacher_server, workers
from verl_ext.adapters.trainer import batch_fields, our_workers
from verl_ext.adapters.trainer import teacher_server as stage


class Buffer:
    def __init__(self, tags):
        self.tags, self.partitions = tags, {}

    def _sync_metadata_from_transfer_queue(self):
        self.partitions = self.tags


def test_the_trainer_raises_what_a_worker_left_in_the_queue():
    buffer = Buffer({"train": {"u": {}}})
    stopping.stop_when_told(buffer)
    buffer._sync_metadata_from_transfer_queue()
    buffer.tags = {stopping.PARTITION: {"worker": {"error": "teacher 'x' failed"}}}
    with pytest.raises(stopping.RolloutStopped, match="teacher 'x' failed"):
        buffer._sync_metadata_from_transfer_queue()


def report(teacher, tokens=4, non_finite=0, failure=""):
    return {
        "verl_ext_teacher": {
            "teacher": teacher,
            "tokens": tokens,
            "non_finite": non_finite,
            "failure": failure,
        }
    }


class Base:
    def __init__(self, config=None):
        self.config, self.global_steps = config, 3

    def _compute_metrics(self, batch, metrics, **more):
        metrics["verl"] = 1.0

    def _init_dataloader(self):
        self.train_dataset = SimpleNamespace(dataframe=DATA)

    def _build_replay_buffer(self):
        return Buffer({stopping.PARTITION: {"teacher": {"error": "gone"}}})


class Trainer(stage.TeacherServers, Base):
    pass


def trainer(enabled=True, manager=None, models=("toy_a", "toy_b")):
    entries = {f"entry{i}": {"key": key, "model_path": "m"} for i, key in enumerate(models)}
    return Trainer(
        OmegaConf.create(
            {
                "distillation": {
                    "enabled": enabled,
                    "teacher_key": "data_source",
                    "teacher_models": {"teacher_model": {"key": None}, **entries},
                },
                "actor_rollout_ref": {"rollout": {"agent": {"agent_loop_manager_class": manager}}},
            }
        )
    )


class Frame(dict):
    @property
    def column_names(self):
        return list(self)


DATA = Frame(data_source=["toy_a", "toy_b", "toy_a"], prompt=[1, 2, 3])


@pytest.fixture
def batch(monkeypatch):
    """Three sessions: a's of two outputs, b's of one that failed, c's by a; and a padding row."""
    rows = [
        report("toy_a", tokens=4, non_finite=1),
        report("toy_a", tokens=6),
        report("toy_b", tokens=5, failure="ActorDiedError: gone"),
        report("toy_a", tokens=10, non_finite=4),
        report("toy_a", tokens=4, non_finite=1),
    ]
    keys = ["a_0_0", "a_0_1", "b_0_0", "c_0_0", "pad1_0_0"]
    monkeypatch.setattr(
        batch_fields,
        "tq",
        SimpleNamespace(
            kv_batch_get=lambda keys, partition_id, select_fields: TensorDict(
                {"extra_fields": NonTensorStack(*rows)}, batch_size=len(keys)
            )
        ),
    )
    tags = [{} for _ in keys[:-1]] + [{"is_padding": True}]
    return KVBatchMeta(keys=keys, tags=tags, partition_id="train")


def test_metrics_count_sessions_for_shares_and_tokens_of_answers_for_what_is_broken(batch, capsys):
    made, metrics = trainer(), {}
    made._compute_metrics(batch, metrics, epoch=1)
    assert metrics == {
        "verl": 1.0,
        "verl_ext/teacher/share/toy_a": pytest.approx(2 / 3),
        "verl_ext/teacher/share/toy_b": pytest.approx(1 / 3),
        "verl_ext/teacher/failed": pytest.approx(1 / 4),
        "verl_ext/teacher/non_finite": pytest.approx((1 + 4) / (4 + 6 + 10)),
    }
    made._compute_metrics(batch, {}, epoch=1)
    (said,) = capsys.readouterr().out.splitlines()
    assert said == (
        "[verl_ext] step 3: teacher 'toy_b' failed for 1 of 4 rows, which teach nothing "
        "(algorithm.verl_ext.teacher.on_teacher_failure=drop): ActorDiedError: gone"
    )


def test_the_rows_to_leave_out_are_those_that_failed_and_never_padding(batch):
    assert trainer().ext_dropped_rows(batch).tolist() == [False, False, True, False, False]


def test_a_row_without_a_report_has_not_failed(batch, monkeypatch):
    rows = NonTensorStack(*({"other": 1} for _ in batch.keys))
    queue = SimpleNamespace(
        kv_batch_get=lambda **_: TensorDict({"extra_fields": rows}, batch_size=len(batch.keys))
    )
    monkeypatch.setattr(batch_fields, "tq", queue)
    assert not trainer().ext_dropped_rows(batch).any()


def test_without_teacher_servers_nothing_is_added(batch):
    made, metrics = trainer(enabled=False), {}
    made._compute_metrics(batch, metrics, epoch=1)
    made._init_dataloader()
    made._build_replay_buffer()._sync_metadata_from_transfer_queue()
    assert metrics == {"verl": 1.0}
    assert made.config.actor_rollout_ref.rollout.agent.agent_loop_manager_class is None


def test_the_replay_buffer_of_a_run_with_teacher_servers_stops():
    with pytest.raises(stopping.RolloutStopped, match="gone"):
        trainer()._build_replay_buffer()._sync_metadata_from_transfer_queue()


@pytest.mark.parametrize("before", [None, our_workers.MANAGER])
def test_a_run_with_teacher_servers_has_our_workers(monkeypatch, before):
    from verl.utils.import_utils import load_class_from_fqn

    made = trainer(manager=before)
    fqn = made.config.actor_rollout_ref.rollout.agent.agent_loop_manager_class
    assert load_class_from_fqn(fqn, "AgentLoopManager") is workers.RolloutManager
    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda self: None)
    started = workers.RolloutManager().agent_loop_workers_class.__ray_actor_class__
    assert issubclass(started, teacher_server.TeacherGuard)


def test_a_process_that_imports_the_workers_first_gets_them():
    """As Ray's do; verl's modules, imported on the way, bring the trainers and these us again."""
    subprocess.run([sys.executable, "-c", "import verl_ext.adapters.rollout.workers"], check=True)


def test_a_manager_of_the_users_own_is_refused_and_not_replaced():
    with pytest.raises(SettingsError, match=r"my\.Manager.*agent_loop_manager_class=null"):
        trainer(manager="my.Manager")


def test_prompts_without_a_teacher_are_found_before_anything_is_generated():
    trainer()._init_dataloader()
    with pytest.raises(SettingsError, match=r"no teacher for .* data_source='toy_b'"):
        trainer(models=["toy_a", "toy_c"])._init_dataloader()


def test_a_misspelt_teacher_key_is_named():
    made = trainer()
    made.config.distillation.teacher_key = "data_sorce"
    with pytest.raises(SettingsError, match="did you mean 'data_source'"):
        made._init_dataloader()


def test_one_teacher_needs_no_key():
    trainer(models=())._init_dataloader()
