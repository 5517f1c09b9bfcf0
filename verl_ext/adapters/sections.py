"""A section of the configuration read into the object that stands for it."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from omegaconf import OmegaConf

from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.suggest import nearest

Section = TypeVar("Section")


def read(key: str, made: Callable[..., Section], section: Any) -> Section | None:
    """Calls ``made`` with a section of the configuration; None without one.

    Raises:
        SettingsError: names the key, and the nearest valid one.
    """
    if section is None:
        return None
    # Not of a copy: interpolations are resolved against the whole configuration.
    node = section if OmegaConf.is_config(section) else OmegaConf.create(section)
    plain: Any = OmegaConf.to_container(node, resolve=True)
    if not isinstance(plain, dict):
        raise SettingsError(f"{key} must be a mapping, got {section!r}")
    parameters = inspect.signature(made).parameters.values()
    refuse_unknown(key, plain, [item.name for item in parameters])
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in plain]
    if missing:
        raise SettingsError(f"{key} lacks {missing[0]}. Add: +{key}.{missing[0]}=...")
    try:
        return made(**plain)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{key}: {error}") from error


def one_of(name: str, value: Any, valid: tuple[str, ...]) -> None:
    """Refuses, with a ValueError, a value that is not valid, and says which is nearest."""
    if value not in valid:
        raise ValueError(
            f"{name} must be one of {', '.join(valid)}, got {value!r}; "
            f"did you mean {nearest(str(value), valid)!r}?"
        )
