"""Starts verl as a user does, and reads what the run left."""

import contextlib
import json
import os
import signal
import subprocess
import sys

from runs import shared_python

PYTHON = sys.executable
CLOCKS = (
    "timing_s/",
    "timing_per_token_ms/",
    "perf/",
    "/seconds",
)  # metrics that measure the machine


# Of runs that share no imports with others, as a user has them: the first ask for new processes or
# a server of the run's own; the other's nodes are told which Python to use.
OF_THEIR_OWN = ("algorithm.verl_ext.preload=", "ray_kwargs.ray_init.address=")
SHARED = "++ray_kwargs.ray_init.runtime_env.py_executable"
MODULE = "verl.trainer.main_ppo"
AS_MODULE = f"import runpy; runpy.run_module({MODULE!r}, run_name='__main__', alter_sys=True)"


def train(folder, *overrides, timeout=1200):
    """Runs verl in its own process group from an empty folder; kills what it leaves behind."""
    python, environment = [PYTHON, "-m", MODULE], dict(os.environ)
    if not any(override.startswith(OF_THEIR_OWN) for override in overrides):
        program = shared_python.program()
        python, overrides = [program, "-c", AS_MODULE], [*overrides, f"{SHARED}={program}"]
        # As a run with a server of its own has it: Ray starts no Pythons ahead.
        environment["RAY_prestart_worker_first_driver"] = "0"
    process = subprocess.Popen(
        [*python, *overrides, f"hydra.run.dir={folder}/run"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-6000:]
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return output, {record["step"]: record["data"] for record in map(json.loads, lines)}


def without_clocks(values):
    """A step's metrics, but those of time and speed."""
    return {name: value for name, value in values.items() if not any(c in name for c in CLOCKS)}


def saved_weights(checkpoints, step):
    """The weights of a checkpoint's Hugging Face export, by name."""
    from safetensors.torch import load_file

    (saved,) = (checkpoints / f"global_step_{step}").rglob("*.safetensors")
    return load_file(saved)


def same_weights(folder, other, step):
    """Whether two runs' checkpoints of a step hold the same weights, to the bit."""
    first, second = (saved_weights(f / "checkpoints", step) for f in (folder, other))
    assert first.keys() == second.keys()
    return all(first[name].equal(second[name]) for name in first)


def largest_move(folder, step, variant="w_reinforce"):
    """How far the checkpoint of a step is from the toy model it started from: its largest entry."""
    from safetensors.torch import load_file

    from verl_ext.toy import world

    after = saved_weights(folder / "checkpoints", step)
    before = load_file(world.ensure(variant).model / "model.safetensors")
    assert set(after) == set(before)
    return max((after[name] - before[name]).abs().max().item() for name in after)
