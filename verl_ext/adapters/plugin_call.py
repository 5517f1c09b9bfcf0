"""A plugin called on two rows, before there are any: what it refuses, and what it does."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import OmegaConf

from verl_ext.adapters.advantage import first_argument
from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.catalog import Plugin


def check_call(key: str, plugin: Plugin, arguments: Mapping[str, Any]) -> None:
    """Makes the plugin, or calls it on two rows: its own errors are the check of the values.

    Args:
        key: where the arguments stand.
        plugin: of the catalog.
        arguments: for it.

    Raises:
        SettingsError: names the key, and the nearest valid argument or what the plugin says.
    """
    function = plugin.function
    parameters = inspect.signature(function).parameters.values()
    allowed = [item.name for item in parameters if item.kind is item.KEYWORD_ONLY]
    refuse_unknown(key, arguments, allowed)
    try:
        if inspect.isclass(function):
            function(**_plain(arguments))
        else:
            _called(plugin, arguments)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{key}: {error}") from error


def compares(plugin: Plugin, arguments: Mapping[str, Any]) -> bool:
    """Whether an estimator teaches by the other responses to a prompt alone.

    It then gives two responses advantages where they are to one prompt, and none where each is to
    its own.

    Args:
        plugin: of an estimator.
        arguments: for it, which :func:`check_call` has accepted.
    """
    if "group_ids" not in plugin.needs:
        return False
    together, apart = (
        _called(plugin, arguments, group_ids=groups)[0] for groups in (["a", "a"], ["a", "b"])
    )
    return bool(together.any()) and not apart.any()


def _called(plugin: Plugin, arguments: Mapping[str, Any], **labels: list[str]) -> Any:
    """What a function makes of two rows, outcomes 1 and 0, whose labels are equal unless given."""
    batch, mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.ones(2, 2)
    fields = {name: ["a", "a"] if name.endswith("_ids") else mask for name in plugin.needs}
    first = first_argument(plugin.function)(batch)
    return plugin.function(first, mask, **(fields | labels), **_plain(arguments))


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(OmegaConf.create(dict(arguments)))
    return dict(plain)
