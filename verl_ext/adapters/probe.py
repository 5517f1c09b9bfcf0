"""What verl-ext has registered in a process; `verl-ext doctor` asks driver and Ray worker."""

import traceback
from dataclasses import dataclass, field


@dataclass
class Findings:
    """What a process sees.

    Attributes:
        registered: one line for each registration that is there.
        missing: one line for each that is not.
        platform: verl's platform in force, with its class.
        failure: a traceback if verl or the plugin did not load; the rest is then empty.
    """

    registered: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    platform: str = ""
    failure: str = ""


def look() -> Findings:
    """Imports verl, plugin and all, and lists what arrived in verl's registries."""
    try:
        return _look()
    except BaseException:  # SystemExit of a broken plugin included: reporting it is the purpose
        return Findings(failure=traceback.format_exc())


def _look() -> Findings:
    import verl  # noqa: F401 -- loads the plugin
    from verl.plugin.platform import get_platform
    from verl.plugin.platform.platform_manager import PlatformRegistry
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    from verl_ext.adapters.names import TRAINER_MODES
    from verl_ext.catalog import ADVANTAGES

    found = Findings(platform=f"{get_platform().device_name} ({type(get_platform()).__name__})")
    expected = [
        *((f"estimator {name}", name in ADV_ESTIMATOR_REGISTRY) for name in ADVANTAGES),
        *((f"trainer {name}", name in TRAINER_REGISTRY) for name in TRAINER_MODES),
        ("platform cpu", PlatformRegistry.get("cpu") is not None),
    ]
    for line, there in expected:
        (found.registered if there else found.missing).append(line)
    return found


def look_in_ray_worker() -> Findings:
    """:func:`look` inside a worker of a short-lived local Ray."""
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        return ray.get(ray.remote(look).remote(), timeout=120)
    except (ray.exceptions.RayError, OSError, RuntimeError):
        return Findings(failure=traceback.format_exc())
    finally:
        ray.shutdown()


def overlays_found() -> str:
    """Empty if Hydra finds ``+paper=w_reinforce`` for verl, else what it says."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException

    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer", overrides=["+paper=w_reinforce"])
    except HydraException as error:
        return str(error)
    return "" if "paper" not in config else "+paper became a plain key"


def megatron() -> list[str]:
    """Lines on what verl's Megatron engine has here and what it lacks."""
    from importlib.metadata import PackageNotFoundError, version

    lines = []
    for package in ("megatron-core", "mbridge", "megatron-bridge", "transformer-engine"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} not installed")
    return lines
