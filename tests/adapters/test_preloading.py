"""Which runs fork their processes from one that has imported everything, and what it imports."""

import importlib
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf, open_dict

from verl_ext.adapters import driver_check, preloading
from verl_ext.adapters.errors import SettingsError

RUN = ("+paper=w_reinforce", "+scale=cpu")
EXECUTABLE = "ray_kwargs.ray_init.runtime_env.py_executable"


@pytest.fixture
def started(monkeypatch):
    """What the server was started with, in place of a server."""
    found = []

    def start(*arguments):
        found.append(arguments)
        return "/a/python"

    monkeypatch.setattr(preloading.fork_server, "start", start)
    return found


def test_the_workers_environment_is_the_servers(verl_config, started):
    config = verl_config(*RUN, "transfer_queue.enable=true")
    preloading.start(config)
    ((*modules, environment),) = started
    assert modules == [preloading.FIRST, preloading.THEN, preloading.LATER]
    wanted = config.ray_kwargs.ray_init.runtime_env.env_vars
    assert wanted.OMP_NUM_THREADS == "1"
    assert environment.items() >= dict(wanted).items()
    assert environment["TRANSFER_QUEUE_ENABLE"] == "1"  # as verl adds it
    assert environment["TOKENIZERS_PARALLELISM"] == "true"  # verl's own
    assert OmegaConf.select(config, EXECUTABLE) == "/a/python"


@pytest.mark.parametrize(
    "override",
    [
        "algorithm.verl_ext.preload=false",
        "trainer.device=cuda",
        "ray_kwargs.ray_init.address=10.0.0.1:6379",
    ],
)
def test_other_runs_start_new_pythons(verl_config, started, override):
    config = verl_config(*RUN, override)
    preloading.start(config)
    assert started == []
    assert OmegaConf.select(config, EXECUTABLE) is None


def test_a_python_of_the_users_own_is_kept(verl_config, started):
    config = verl_config(*RUN, f"+{EXECUTABLE}=/their/python")
    preloading.start(config)
    assert started == []
    assert OmegaConf.select(config, EXECUTABLE) == "/their/python"


def test_a_run_without_our_scale_is_left_alone(verl_config, started):
    config = verl_config()
    with open_dict(config):
        config.trainer.device = "cpu"
    preloading.start(config)
    assert started == []


def test_anything_but_true_and_false_is_refused(verl_config):
    with pytest.raises(SettingsError, match="preload must be true or false"):
        driver_check.check(verl_config(*RUN, "algorithm.verl_ext.preload=perhaps"))


@pytest.mark.parametrize("name", preloading.FIRST + preloading.THEN + preloading.LATER)
def test_the_modules_are_there(name):
    importlib.import_module(name)


def test_the_first_modules_leave_ray_alone():
    code = f"""
import importlib, sys
for name in {preloading.FIRST!r}: importlib.import_module(name)
print("ray" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr


DRAWS = """
import importlib, os, sys
for name in sys.argv[1:]: importlib.import_module(name)
from ray._raylet import UniqueID
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        print(UniqueID.from_random().hex(), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize(
    ("modules", "alike"), [(preloading.THEN + preloading.LATER, False), (("verl",), True)]
)
def test_forks_draw_other_ids_of_ray(modules, alike):
    result = subprocess.run(
        [sys.executable, "-c", DRAWS, *modules], capture_output=True, text=True, check=True
    )
    one, other = [line for line in result.stdout.splitlines() if len(line) == 56]
    assert (one == other) == alike  # the second: why ray_ids is needed


TORCH = """
import importlib, pathlib, sys, torch
import verl.workers.engine_workers  # as a worker of the trainer has it, preloaded or not
places = (torch, torch.Tensor, torch.cuda, torch.accelerator)
before = [dict(vars(place)) for place in places]
for name in sys.argv[1:]: importlib.import_module(name)
changed = [n for p, was in zip(places, before) for n in was if vars(p).get(n) is not was[n]]
print("changed:", changed)
threads = pathlib.Path("/proc/self/task").glob("*/comm")
print("threads:", *sorted(thread.read_text().strip() for thread in threads))
"""


@pytest.mark.parametrize(
    ("modules", "changed"),
    [
        (preloading.FIRST + preloading.THEN + preloading.LATER, []),
        (["vllm.v1.worker.cpu_worker"], ["Event", "Stream"]),  # why it is not one of them
    ],
    ids=["preloaded", "cpu_worker"],
)
def test_the_modules_leave_torch_as_it_is_and_start_no_thread_but_arrows(modules, changed):
    result = subprocess.run(
        [sys.executable, "-c", TORCH, *modules],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as at +scale=cpu
    )
    (said,) = [line for line in result.stdout.splitlines() if line.startswith("changed:")]
    assert (said == "changed: []") == (not changed)
    assert all(repr(name) in said for name in changed)
    (threads,) = [line for line in result.stdout.splitlines() if line.startswith("threads:")]
    assert [name for name in threads.split()[1:] if name != "jemalloc_bg_thd"] == ["python"]


def test_a_driver_check_does_not_load_a_trainer():
    code = """
import sys, verl.trainer.main_ppo, verl_ext.adapters.driver_check
print(sorted(name for name in sys.modules if name in ("verl.trainer.ppo.v1", "megatron", "vllm")))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr
