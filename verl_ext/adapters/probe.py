"""What verl-ext has registered in a process; `verl-ext doctor` asks driver and Ray worker."""

import importlib
import traceback
from dataclasses import dataclass, field

from verl_ext.adapters.names import MEGATRON_EXTRA


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


# What verl's Megatron engine imports: distribution, what it is for, what installs it.
MEGATRON = (
    ("megatron-core", "the engine itself", MEGATRON_EXTRA),
    ("mbridge", "the bridge of vanilla_mbridge=true, which +scale=cpu sets", MEGATRON_EXTRA),
    ("megatron-bridge", "verl's default bridge, needed on GPUs", "pip install 'verl[megatron]'"),
    ("transformer-engine", "layers on GPUs; CPUs have ours", "pip install 'verl[megatron]'"),
)


def megatron_engine() -> list[str]:
    """Whether verl's Megatron engine can run here, what it finds, and what it lacks."""
    from importlib.metadata import distributions

    names = {name for name, _, _ in MEGATRON}
    found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] in names}
    lines = [_verdict(found)]
    lines += [f"has {name} {found[name]}" for name, _, _ in MEGATRON if name in found]
    lines += [
        f"lacks {name} ({purpose}): {install}"
        for name, purpose, install in MEGATRON
        if name not in found
    ]
    return lines


def _verdict(found: dict[str, str]) -> str:
    if "megatron-core" not in found or not found.keys() & {"mbridge", "megatron-bridge"}:
        return "not usable: it needs megatron-core and a bridge"
    importlib.import_module("verl.workers.engine")
    from verl.utils.device import get_device_name
    from verl.workers.engine.base import EngineRegistry

    engines = EngineRegistry._engines["language_model"].get("megatron")
    if engines is None:
        return "not usable: verl could not import its engine with what is installed"
    devices = sorted({key if isinstance(key, str) else key[0] for key in engines})
    device = get_device_name()
    if device not in devices:
        return f"not usable on this machine's {device}: verl's engine is for {', '.join(devices)}"
    return f"usable on this machine's {device}"
