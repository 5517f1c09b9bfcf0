"""Processes of a run on the CPU are forked from one that has imported what they all import.

``algorithm.verl_ext.preload=false``: each starts as a new Python instead.
"""

import os
from typing import cast

from omegaconf import DictConfig, OmegaConf, open_dict
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

from verl_ext.adapters import machine
from verl_ext.platforms import fork_server

KEY = "algorithm.verl_ext.preload"
# Without Ray, which waits for its cluster.
FIRST = ("torch._dynamo", "tensordict", "transformers.modeling_utils", "datasets", "wandb")
THEN = (
    "verl_ext.platforms.fork_server.ray_ids",  # before anything under ray.remote
    "verl_ext.adapters.trainer",  # what the first process, the task runner, is to import
)
# With all of vLLM that an engine needs, but for its CPU worker: that one puts streams, events and
# pinned memory of its own into torch, for every process that imports it.
LATER = ("verl.workers.rollout.vllm_rollout.vllm_async_server",)


def start(config: DictConfig) -> None:
    """Starts the process to fork from, and has Ray ask it for each of its workers.

    On the CPU alone, and for a Ray of this run's own: CUDA does not survive a fork, and other
    machines have no such process.

    Args:
        config: verl's whole configuration; Ray's ``runtime_env`` in it is told the program.
    """
    wanted = OmegaConf.select(config, KEY, default=False)
    if not wanted or config.trainer.device != "cpu" or machine.cluster_address(config) is not None:
        return
    if OmegaConf.select(_runtime(config), "py_executable"):  # the user's own
        return
    # Ray starts Pythons of its own ahead, which no process of this run can use.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    python = fork_server.start(FIRST, THEN, LATER, environment(config))
    with open_dict(config):
        OmegaConf.update(
            config, "ray_kwargs.ray_init.runtime_env.py_executable", str(python), force_add=True
        )


def environment(config: DictConfig) -> dict[str, str]:
    """That of a run's workers, as verl and the run's overlays have it."""
    queue = {"TRANSFER_QUEUE_ENABLE": "1"} if config.transfer_queue.enable else {}
    return {**os.environ, **queue, **_runtime(config).env_vars}


def _runtime(config: DictConfig) -> DictConfig:
    verls = get_ppo_ray_runtime_env(config)  # type: ignore[no-untyped-call]
    runtime = OmegaConf.merge(verls, config.ray_kwargs.ray_init.get("runtime_env", {}))
    return cast(DictConfig, runtime)
