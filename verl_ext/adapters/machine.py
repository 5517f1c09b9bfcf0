"""Does the configuration fit the machine it is about to run on?"""

import os
import socket
import uuid
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.plugin.platform import get_platform, set_platform
from verl.plugin.platform.platform_cuda import PlatformCUDA

from verl_ext.adapters import megatron, run_view
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.logical_gpus import logical_gpus
from verl_ext.platforms import cpu, cpu_patches
from verl_ext.run_log import METRICS_FILE

# verl's resource pool reserves this many CPUs beside each accelerator (max_colocate_count).
CPUS_PER_WORKER = 3


def check(config: DictConfig) -> None:
    """Refuses what would hang or fail minutes later.

    Raises:
        SettingsError: no accelerator for a GPU run, an accelerator under a CPU run, a Megatron
            layout that cannot be, too few logical CPUs for Ray, a Ray cluster that no longer
            answers, or one that is joined and sized at once.
    """
    _check_device(config)
    megatron.check(
        config,
        on_cpu=config.trainer.device == "cpu",
        workers_share_packages=cluster_address(config) is None,
    )
    _check_logical_cpus(config)
    _check_ray_address(config)
    _check_joining(config)


def prepare(config: DictConfig) -> None:
    """Gives the run a name of its own on this machine, and its directory verl's metrics file.

    The progress bar reads that file, so under our overlays it is always written; where, is the
    user's choice first.
    """
    if config.trainer.device == "cpu":
        _set_env(config, cpu_patches.RUN, uuid.uuid4().hex[:12])
    else:
        _set_env(config, cpu.OFF, "1")
    if run_view.in_use():
        verbose = OmegaConf.select(config, "algorithm.verl_ext.verbose")
        wanted = ["console", "file"] if verbose else ["file"]  # verbose: all that verl can print
        missing = [name for name in wanted if name not in config.trainer.logger]
        with open_dict(config):
            config.trainer.logger = [*config.trainer.logger, *missing]
    if "file" not in config.trainer.logger or os.environ.get("VERL_FILE_LOGGER_PATH"):
        return
    if HydraConfig.initialized():
        directory = Path(HydraConfig.get().runtime.output_dir)
        _set_env(config, "VERL_FILE_LOGGER_PATH", str(directory / METRICS_FILE))


def _check_device(config: DictConfig) -> None:
    on_cpu = cpu.in_force()
    if config.trainer.device == "cpu":
        if not on_cpu:
            raise SettingsError(
                f"trainer.device=cpu, but verl sees a {get_platform().device_name} device here. "
                "Set the environment variable VERL_PLATFORM=cpu to leave it alone, "
                "or use +scale=gpu1"
            )
    elif on_cpu and cluster_address(config) is None:
        raise SettingsError(
            f"trainer.device={config.trainer.device}, but this machine has no accelerator and no "
            "Ray cluster was named (RAY_ADDRESS). Add: +scale=cpu"
        )
    elif on_cpu:
        # A head node without accelerators that submits to a cluster: here the CPU is no platform.
        os.environ[cpu.OFF] = "1"
        set_platform(PlatformCUDA())  # what verl itself falls back to


def _check_logical_cpus(config: DictConfig) -> None:
    num_cpus = config.ray_kwargs.ray_init.get("num_cpus")
    if num_cpus is None:
        return
    workers = logical_gpus(config)
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    needed = CPUS_PER_WORKER * workers + units + 1  # and the task runner
    if num_cpus < needed:
        raise SettingsError(
            f"ray_kwargs.ray_init.num_cpus={num_cpus}: Ray would wait for ever for {needed} "
            f"logical CPUs ({CPUS_PER_WORKER} for each of {workers} workers, {units} storage "
            f"units, the task runner). Add: ray_kwargs.ray_init.num_cpus={needed}"
        )


def _check_ray_address(config: DictConfig) -> None:
    address = cluster_address(config)
    if address is None or "://" in address or address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"the Ray cluster at {address} does not answer ({error}); a killed run leaves its "
            "address behind. Run `ray stop` and unset RAY_ADDRESS, or add: "
            "+ray_kwargs.ray_init.address=local"
        ) from error


def _check_joining(config: DictConfig) -> None:
    """Ray refuses sizes for a cluster that is there already, after the models were made."""
    given = config.ray_kwargs.ray_init
    sizes = [name for name in ("num_cpus", "num_gpus") if given.get(name) is not None]
    address = cluster_address(config)
    if address is not None and sizes:
        raise SettingsError(
            f"{' and '.join(f'ray_kwargs.ray_init.{name}' for name in sizes)} cannot be set for "
            f"the Ray cluster at {address}, which has its size (`ray start --num-cpus=32 "
            "--num-gpus=1` on each node: a logical GPU a worker). Add: "
            + " ".join(f"ray_kwargs.ray_init.{name}=null" for name in sizes)
        )


def cluster_address(config: DictConfig) -> str | None:
    """The cluster that ``ray.init`` would join; None when it would start its own."""
    chosen = config.ray_kwargs.ray_init.get("address") or os.environ.get("RAY_ADDRESS")
    if chosen:
        return None if chosen == "local" else str(chosen)
    from ray._private.utils import read_ray_address

    return read_ray_address() or None


def _set_env(config: DictConfig, name: str, value: str) -> None:
    with open_dict(config):
        OmegaConf.update(
            config, f"ray_kwargs.ray_init.runtime_env.env_vars.{name}", value, force_add=True
        )
