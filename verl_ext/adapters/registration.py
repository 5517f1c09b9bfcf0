"""Attaches everything verl-ext has to verl, lazily: each part when verl imports what it needs."""

import functools
import importlib
from types import ModuleType
from typing import Any

import verl
from packaging.version import Version

from verl_ext.adapters import lengths, logical_gpus, toy
from verl_ext.platforms import cpu, patching
from verl_ext.post_import import when_imported

VERL_FROM, VERL_BELOW = "0.9.1", "0.10"


def install() -> None:
    """Registers platform and patches now; estimators, trainers and checks on their imports.

    Raises:
        RuntimeError: verl is outside the range this version is made for.
    """
    check_version(verl.__version__)
    cpu.register()
    patching.install()
    toy.register_resolver()
    lengths.register_resolvers()
    logical_gpus.register_resolvers()
    when_imported("verl.trainer.ppo.core_algos", _estimators)
    when_imported("verl.trainer.ppo.v1", _trainers)
    when_imported("verl.utils.config", _driver_check)


def check_version(version: str) -> None:
    """Refuses a verl whose private symbols we have not checked.

    Args:
        version: verl's version string.

    Raises:
        RuntimeError: it is outside the supported range.
    """
    if not Version(VERL_FROM) <= Version(version) < Version(VERL_BELOW):
        raise RuntimeError(
            f"verl {version} is installed, verl-ext needs >={VERL_FROM},<{VERL_BELOW}: "
            f"pip install 'verl>={VERL_FROM},<{VERL_BELOW}', or a verl-ext made for verl {version}"
        )


def _estimators(core_algos: ModuleType) -> None:
    from verl_ext.adapters import advantage

    advantage.register(core_algos)


def _trainers(_: ModuleType) -> None:
    importlib.import_module("verl_ext.adapters.trainer")


def _driver_check(verl_config: ModuleType) -> None:
    """Runs our check before verl's; imported by the driver alone, on its first call."""
    validate_config = verl_config.validate_config

    @functools.wraps(validate_config)
    def checked(config: Any, *args: Any, **kwargs: Any) -> Any:
        from verl_ext.adapters import driver_check

        driver_check.check_and_prepare(config)
        return validate_config(config, *args, **kwargs)

    verl_config.validate_config = checked  # type: ignore[attr-defined]
