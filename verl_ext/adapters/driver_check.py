"""One check of the whole configuration in the driver, before Ray starts.

Wrapped around verl's ``validate_config``, so it sees every run, with or without our overlays.
Nothing a user wrote may be without effect: what would be ignored is refused, in words, with the
nearest valid name.
"""

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from verl_ext import overlays
from verl_ext.adapters import machine, megatron, run_view, toy
from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.names import STOCK_MODES, TRAINER_MODES
from verl_ext.catalog import ADVANTAGES, MASKS
from verl_ext.data.locations import maker
from verl_ext.suggest import nearest

SECTIONS = ("advantage", "masks", "toy", "verbose")
VERLS_PLACEHOLDER = "~/models/deepseek-llm-7b-chat"
# Reward functions of ours that give 0/1 only when asked to.
BINARY_ON_REQUEST = ("verl_ext.reward_fns.string_composition",)


def check_and_prepare(config: DictConfig) -> None:
    """Checks the configuration, then builds and sets what the run needs from us.

    Raises:
        SettingsError: see :func:`check`.
    """
    check(config)
    toy.provide(config)
    megatron.check_model(config)  # the toy model exists only now
    machine.prepare(config)
    run_view.READY.set()


def check(config: DictConfig) -> None:
    """Refuses a configuration that verl-ext would ignore in part or cannot run.

    Args:
        config: verl's whole configuration.

    Raises:
        SettingsError: names the key, the nearest valid name and the line to type.
    """
    _check_overlays(config)
    settings = config.algorithm.get("verl_ext") or {}
    _refuse_unknown("algorithm.verl_ext", settings, SECTIONS)
    if not isinstance(settings.get("verbose", False), bool):
        raise SettingsError("algorithm.verl_ext.verbose must be true or false")
    _check_trainer_mode(config, settings)
    _check_estimator(config, settings)
    _check_masks(config, settings.get("masks") or {})
    _check_toy(config)
    _check_packages(config)
    machine.check(config)
    _check_inputs(config)


def _check_overlays(config: DictConfig) -> None:
    for group in overlays.GROUPS:
        if group in config:
            raise SettingsError(
                f"'{group}' arrived as a plain key: the overlay search path is inactive. "
                "Reinstall verl-ext in this environment (pip install verl-ext) and run "
                "`verl-ext doctor`"
            )
    if HydraConfig.initialized():
        try:
            overlays.check(list(HydraConfig.get().overrides.task))
        except overlays.OverlayError as error:
            raise SettingsError(str(error)) from None


def _check_trainer_mode(config: DictConfig, settings: Mapping[str, Any]) -> None:
    mode = str(config.trainer.v1.trainer_mode)
    if mode.startswith("verl_ext") and mode not in TRAINER_MODES:
        _refuse_unknown("trainer.v1.trainer_mode", [mode], TRAINER_MODES)
    if not settings.get("masks"):
        return
    if mode in STOCK_MODES:
        raise SettingsError(
            f"algorithm.verl_ext.masks has no effect under the stock trainer '{mode}'. "
            f"Add: trainer.v1.trainer_mode={TRAINER_MODES[0]}"
        )
    if not config.trainer.use_v1:
        raise SettingsError(
            "algorithm.verl_ext.masks needs verl's V1 trainer. Add: trainer.use_v1=true"
        )


def _check_estimator(config: DictConfig, settings: Mapping[str, Any]) -> None:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    name = str(config.algorithm.adv_estimator)
    _refuse_unknown("algorithm.adv_estimator", [name], list(ADV_ESTIMATOR_REGISTRY))
    arguments = settings.get("advantage") or {}
    if name not in ADVANTAGES:
        if arguments:
            raise SettingsError(
                f"algorithm.verl_ext.advantage ({', '.join(arguments)}) belongs to another "
                f"estimator: '{name}' takes none of it. Remove it: '~algorithm.verl_ext.advantage'"
            )
        return
    _check_call("algorithm.verl_ext.advantage", ADVANTAGES[name].function, arguments)
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


def _check_masks(config: DictConfig, masks: Mapping[str, Any]) -> None:
    _refuse_unknown("algorithm.verl_ext.masks", masks, list(MASKS))
    for name, arguments in masks.items():
        _check_call(f"algorithm.verl_ext.masks.{name}", MASKS[name].function, arguments or {})
    loss_agg_mode = config.actor_rollout_ref.actor.loss_agg_mode
    if "zero_advantage" in masks and loss_agg_mode != "token-mean":
        raise SettingsError(
            "algorithm.verl_ext.masks.zero_advantage takes rows out of the token mean; "
            f"loss_agg_mode={loss_agg_mode} divides by a fixed number, so it has no effect. "
            "Add: actor_rollout_ref.actor.loss_agg_mode=token-mean"
        )


def _check_call(key: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Calls the function on a two-row batch: its own errors are the check of the values."""
    parameters = inspect.signature(function).parameters.values()
    allowed = [item.name for item in parameters if item.kind is item.KEYWORD_ONLY]
    _refuse_unknown(key, arguments, allowed)
    plain: Any = OmegaConf.to_container(OmegaConf.create(dict(arguments)))
    batch = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    try:
        function(batch, torch.ones(2, 2), **plain)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{key}: {error}") from error


def _check_toy(config: DictConfig) -> None:
    if toy.in_use(config):
        toy.check(config)
        return
    if not HydraConfig.initialized():
        return
    for override in HydraConfig.get().overrides.task:
        if override.lstrip("+").startswith("algorithm.verl_ext.toy="):
            raise SettingsError(
                f"'{override}' has no effect without the toy task. Add: task=toy, or remove it"
            )


def _check_packages(config: DictConfig) -> None:
    needed = {"transfer_queue": "pip install 'TransferQueue>=0.1.10'"}
    if config.actor_rollout_ref.rollout.name == "vllm":
        needed["vllm"] = "install vLLM for your machine (on a CPU: `make venv` of verl-ext)"
    for module, remedy in needed.items():
        if importlib.util.find_spec(module) is None:
            raise SettingsError(f"Python module '{module}' is missing: {remedy}")


def _check_inputs(config: DictConfig) -> None:
    """Local data files must be there, and the model must be one somebody chose."""
    if toy.in_use(config):
        return  # built after this check
    for key in ("train_files", "val_files"):
        files = config.data[key]
        for file in [files] if isinstance(files, str) else files or []:
            if "://" not in file and not Path(file).expanduser().exists():
                command = maker(file)
                remedy = f"Make it: {command}; or name" if command else "Name"
                raise SettingsError(f"data.{key}: there is no file {file}. {remedy} your own")
    if config.actor_rollout_ref.model.path == VERLS_PLACEHOLDER:
        raise SettingsError(
            "actor_rollout_ref.model.path is still verl's placeholder: this scale and task bring "
            "no model. Add: actor_rollout_ref.model.path=YOUR_MODEL"
        )


def _refuse_unknown(key: str, given: Iterable[str], valid: Iterable[str]) -> None:
    valid = list(valid)
    for name in given:
        if not valid:
            raise SettingsError(f"{key}: unknown '{name}'; it takes no settings: {key}={{}}")
        if name not in valid:
            raise SettingsError(
                f"{key}: unknown '{name}', did you mean '{nearest(str(name), valid)}'? "
                f"There are: {', '.join(map(str, valid))}"
            )
