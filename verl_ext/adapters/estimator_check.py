"""Checks of the advantage estimator: its arguments, and what it needs of the run."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.adapters.plugin_call import check_call, compares
from verl_ext.adapters.teacher.settings import Mix
from verl_ext.catalog import ADVANTAGES, MIXERS

ADVANTAGE_KEY = "algorithm.verl_ext.advantage"
# Reward functions of ours that give 0/1 only when asked to.
BINARY_ON_REQUEST = ("verl_ext.reward_fns.string_composition",)
# The toy whose tasks are rewarded by degrees.
GRADED_TOY = ("verl_ext.toy.reward", "three_tasks")


def check(config: DictConfig, settings: Mapping[str, Any]) -> None:
    """Checks ``algorithm.adv_estimator`` and its ``advantage``; what it mixes, the teacher's check.

    Args:
        config: verl's whole configuration.
        settings: its subtree ``algorithm.verl_ext``.

    Raises:
        SettingsError: names the key and the line to type.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    name = str(config.algorithm.adv_estimator)
    refuse_unknown("algorithm.adv_estimator", [name], list(ADV_ESTIMATOR_REGISTRY))
    _check_leftovers(name, settings.get("advantage") or {})
    if name not in MIXERS:
        check_estimator(config, name, settings.get("advantage") or {}, ADVANTAGE_KEY)


def _check_leftovers(name: str, arguments: Mapping[str, Any]) -> None:
    """Arguments that another overlay has set for its own estimator, which was then replaced."""
    if name not in ADVANTAGES | MIXERS:
        return
    own = _arguments(name)
    for owner in ADVANTAGES | MIXERS:
        left = {k: v for k, v in arguments.items() if k not in own and k in _arguments(owner)}
        if not left:
            continue
        first = next(iter(left))
        owners = [other for other in ADVANTAGES | MIXERS if first in _arguments(other)]
        remove = " ".join(f"'~{ADVANTAGE_KEY}.{key}'" for key in left)
        mixed = ", ".join(f"{key}: {value}" for key, value in left.items())
        mix = (
            f", or mix: {ADVANTAGE_KEY}.task_estimator={owner} {remove} "
            f"'+{ADVANTAGE_KEY}.task_arguments={{{mixed}}}'"
        )
        raise SettingsError(
            f"{ADVANTAGE_KEY}.{first} is of {' and '.join(owners)}, and the estimator is "
            f"'{name}': of several overlays the last one's counts. Leave one of them out"
            f"{mix if name in MIXERS and owner in ADVANTAGES else ''}; or remove what is left of "
            f"it: {remove}"
        )


def _arguments(name: str) -> set[str]:
    """The keys of an estimator of ours."""
    plugin = ADVANTAGES.get(name) or MIXERS[name]
    parameters = inspect.signature(plugin.function).parameters.values()
    own = {item.name for item in parameters if item.kind is item.KEYWORD_ONLY}
    return own | ({each.name for each in fields(Mix)} - {"term"} if name in MIXERS else set())


def check_estimator(
    config: DictConfig,
    name: str,
    arguments: Mapping[str, Any],
    key: str = ADVANTAGE_KEY,
    named_by: str = "algorithm.adv_estimator",
) -> None:
    """Refuses arguments that an estimator does not take, and runs of which it learns nothing.

    Args:
        config: verl's whole configuration.
        name: of the estimator, known to verl's registry.
        arguments: for it.
        key: where they stand.
        named_by: the key that says which estimator.

    Raises:
        SettingsError: names the key and what to do.
    """
    if name not in ADVANTAGES:
        if arguments:
            raise SettingsError(
                f"{key} ({', '.join(arguments)}) belongs to another "
                f"estimator: '{name}' takes none of it. Remove it: '~{key}'"
            )
        return
    check_call(key, ADVANTAGES[name], arguments)
    if config.actor_rollout_ref.rollout.n < 2 and compares(ADVANTAGES[name], arguments):
        raise SettingsError(
            f"{named_by}={name} compares the responses to a prompt, and there is one of each: "
            "every advantage would be 0. Add: actor_rollout_ref.rollout.n=8"
        )
    if ADVANTAGES[name].binary_outcomes:
        _check_binary(config, name)


def _check_binary(config: DictConfig, name: str) -> None:
    if config.algorithm.use_kl_in_reward:
        raise SettingsError(
            f"'{name}' needs outcomes of 0 or 1, and algorithm.use_kl_in_reward mixes a KL penalty "
            "into them. Use the loss's KL instead: algorithm.use_kl_in_reward=false "
            "actor_rollout_ref.actor.use_kl_loss=true"
        )
    custom = config.reward.custom_reward_function
    path = str(custom.get("path") or "").removeprefix("pkg://")
    if path in BINARY_ON_REQUEST and not (custom.get("reward_kwargs") or {}).get("binary", False):
        raise SettingsError(
            f"'{name}' needs outcomes of 0 or 1, and {path} gives -1, 0 or 1. "
            "Add: +reward.custom_reward_function.reward_kwargs.binary=true"
        )
    toy = (config.algorithm.get("verl_ext") or {}).get("toy")
    if (path, toy) == GRADED_TOY:
        raise SettingsError(
            f"'{name}' needs outcomes of 0 or 1, and the toy '{toy}' rewards letters and points by "
            "degrees. Leave one of the two out, or take a toy that is right or wrong. "
            "Add: algorithm.verl_ext.toy=w_reinforce"
        )
