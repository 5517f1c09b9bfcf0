"""Processes of a run that are killed as a machine kills them, in the middle of a step."""

import contextlib
import json
import os
import signal
import subprocess
import time

import psutil
import pytest
from runs.launch import PYTHON, train

MINUTES = 60


def overrides(folder, steps):
    return [
        "+paper=nsr",
        "+scale=cpu",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.total_training_steps={steps}",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=1",
    ]


def steps_done(folder):
    file = folder / "run" / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


class Started:
    """A run that goes on by itself."""

    def __init__(self, folder, steps=30):
        self.folder, self.log = folder, open(folder / "out.log", "w")  # noqa: SIM115
        command = [PYTHON, "-m", "verl.trainer.main_ppo", *overrides(folder, steps)]
        self.process = subprocess.Popen(
            [*command, f"hydra.run.dir={folder}/run"],
            cwd=folder,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def until_step(self, step):
        deadline = time.monotonic() + 15 * MINUTES
        while steps_done(self.folder) < step:
            assert self.process.poll() is None, (self.folder / "out.log").read_text()[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture
def started(tmp_path):
    run = Started(tmp_path)
    yield run
    run.close()


def title(process):
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.run
@pytest.mark.wide
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ray::RolloutWorker", "rollout worker"),
        ("ray::WorkerDict", "ActorDied"),
        ("VLLM::", "policy server 0 is gone"),
    ],
)
def test_a_killed_worker_stops_the_run_by_name_and_the_next_one_resumes(
    tmp_path, started, name, said
):
    started.until_step(2)
    victim = next(process for process in started.family() if title(process).startswith(name))
    victim.kill()
    assert started.process.wait(10 * MINUTES) != 0
    done = steps_done(tmp_path)
    out = (tmp_path / "out.log").read_text()
    assert said in out, out[-4000:]
    _, metrics = train(tmp_path, *overrides(tmp_path, done + 1))
    assert max(metrics) == done + 1


@pytest.mark.run
@pytest.mark.wide
def test_a_killed_driver_leaves_no_process_behind_and_its_run_resumes(tmp_path, started):
    started.until_step(2)
    family = started.family()
    assert len(family) > 10
    started.process.kill()
    _, left = psutil.wait_procs(family, timeout=3 * MINUTES)
    assert [title(process) for process in left] == []
    done = steps_done(tmp_path)
    saved = (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text()
    assert done - 1 <= int(saved) <= done
    _, metrics = train(tmp_path, *overrides(tmp_path, done + 2))
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [record["step"] for record in records][-1] == done + 2
    assert set(metrics) >= {done + 1, done + 2}
