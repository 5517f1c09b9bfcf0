"""Two teachers that verl serves on the CPU, and what becomes of a run when one of them dies."""

import json
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import killing_reward
from runs.launch import train

from verl_ext.toy import world

PROMPTS, RESPONSES, STEPS = 8, 4, 3
SOURCES = ("toy_exact", "toy_letters")


def run(folder, monkeypatch, on_teacher_failure, how):
    """A run whose second teacher dies in its second step."""
    monkeypatch.setenv(killing_reward.AT_CALL, str(PROMPTS * RESPONSES + 1))
    monkeypatch.setenv(killing_reward.SERVER, killing_reward.teacher(SOURCES[1]))
    monkeypatch.setenv(killing_reward.SIGNAL, str(int(how)))
    toy = world.ensure("three_tasks")
    rows = [pq.read_table(toy.train, filters=[("data_source", "=", name)]) for name in SOURCES]
    pq.write_table(pa.concat_tables([table.slice(0, 48) for table in rows]), folder / "two.parquet")
    inference = "${distillation.teacher_models.teacher_model.inference}"
    for name in SOURCES:
        shutil.copytree(toy.model, folder / f"model_of_{name}")
    teachers = [
        f"+distillation.teacher_models.{name}={{key: {name}, num_replicas: 1, "
        f"model_path: {folder}/model_of_{name}, inference: {inference}}}"
        for name in SOURCES
    ]
    return train(
        folder,
        "+paper=opd",
        "+scale=cpu",
        "algorithm.verl_ext.toy=three_tasks",
        "+algorithm.verl_ext.task_key=data_source",
        "algorithm.verl_ext.advantage.task_estimator=grpo",
        f"+algorithm.verl_ext.teacher.on_teacher_failure={on_teacher_failure}",
        "algorithm.verl_ext.teacher.source=server",
        "+algorithm.verl_ext.teacher.timeout_s=60",
        "distillation.enabled=true",
        "distillation.n_gpus_per_node=2",
        "distillation.nnodes=1",
        *teachers,
        f"data.train_files={folder}/two.parquet",
        f"reward.custom_reward_function.path={killing_reward.__file__}",
        f"data.train_batch_size={PROMPTS}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
        f"actor_rollout_ref.rollout.n={RESPONSES}",
        "actor_rollout_ref.rollout.agent.num_workers=1",
        f"trainer.total_training_steps={STEPS}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
    )


def share(metrics, name):
    """Of the rows, as verl's task column has them: not by way of the workers' reports."""
    rows = {task: metrics.get(f"verl_ext/task/{task}/rows", 0.0) for task in SOURCES}
    return rows[name] / sum(rows.values())


@pytest.mark.run
def test_two_teachers_teach_their_own_tasks_and_the_run_outlives_one_of_them(tmp_path, monkeypatch):
    output, metrics = run(tmp_path, monkeypatch, "drop", signal.SIGKILL)
    assert set(metrics) == set(range(1, STEPS + 1))
    for step in metrics.values():
        for name in SOURCES:
            assert step.get(f"verl_ext/teacher/share/{name}", 0.0) == share(step, name)
        assert step["verl_ext/teacher/non_finite"] == 0.0
    assert 0 < share(metrics[1], SOURCES[1]) < 1
    # Student and teachers are one model: the servers' log-probs are the training engine's.
    assert abs(metrics[1]["verl_ext/teacher/reverse_kl"]) < 1e-4
    assert metrics[1]["verl_ext/teacher/failed"] == 0.0
    assert share(metrics[STEPS], SOURCES[1]) > 0
    assert metrics[STEPS]["verl_ext/teacher/failed"] == share(metrics[STEPS], SOURCES[1])
    said = [line for line in output.splitlines() if "teacher 'toy_letters' failed for" in line]
    assert len(said) == 1


@pytest.mark.run
@pytest.mark.wide
def test_a_teacher_that_dies_stops_the_run_which_says_who_and_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(AssertionError) as stopped:  # launch.train's, about the exit code
        run(tmp_path, monkeypatch, "stop", signal.SIGKILL)
    words = str(stopped.value)
    assert f"teacher 'toy_letters' ({tmp_path}/model_of_toy_letters) failed: ActorDied" in words
    assert "algorithm.verl_ext.teacher.on_teacher_failure=drop" in words
    lines = Path(tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1]


@pytest.mark.run
@pytest.mark.wide
def test_a_teacher_that_hangs_stops_the_run_after_its_time(tmp_path, monkeypatch):
    with pytest.raises(AssertionError) as stopped:
        run(tmp_path, monkeypatch, "stop", signal.SIGSTOP)
    words = str(stopped.value)
    assert (
        f"teacher 'toy_letters' ({tmp_path}/model_of_toy_letters) failed: no answer within 60 s"
        in words
    )
    assert "(algorithm.verl_ext.teacher.timeout_s)" in words
