"""One check of the whole configuration in the driver, before Ray starts.

Wrapped around verl's ``validate_config``, so it sees every run, with or without our overlays.
Nothing a user wrote may be without effect: what would be ignored is refused, in words, with the
nearest valid name.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from verl_ext import overlays
from verl_ext.adapters import (
    lengths,
    machine,
    megatron,
    plugin_check,
    preloading,
    resume,
    reward_function,
    run_view,
    test_time,
    toy,
)
from verl_ext.adapters.advantage import declared_fields
from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.adapters.names import NOT_FINITE, STOCK_MODES, TRAINER_MODES
from verl_ext.adapters.reference_probability import check as reference_check
from verl_ext.adapters.teacher import check as teacher_check
from verl_ext.adapters.teacher import tokenizers
from verl_ext.adapters.tournament import check as tournament_check
from verl_ext.data.locations import maker

SECTIONS = (
    "advantage", "masks", "teacher", "divergence", "sampler", "task_key", "deterministic", "toy",
    "cpu", "verbose", "preload", "test_time", "group_reward", "changed_settings",
    "not_finite",
)  # fmt: skip
# The first is the default.
CHOICES = {"not_finite": NOT_FINITE, "changed_settings": resume.CHOICES}
# What a paper may say in the place of +scale=cpu: the last parts of verl's keys.
CPU_SIZES = ("train_batch_size", "ppo_mini_batch_size", "n", "lr")
# The actor's strategy -> verl's group of its engine, and the section that it brings.
ENGINES = {
    "fsdp": ("dp", "fsdp_config"),
    "fsdp2": ("dp", "fsdp_config"),
    "megatron": ("megatron", "megatron"),
}
VERLS_PLACEHOLDER = "~/models/deepseek-llm-7b-chat"


def check_and_prepare(config: DictConfig) -> None:
    """Checks the configuration, then builds and sets what the run needs from us.

    Raises:
        SettingsError: see :func:`check`.
    """
    check(config)
    preloading.start(config)
    toy.provide(config)
    tokenizers.check(config)
    teacher_check.prepare(config)
    reference_check.prepare(config)
    tournament_check.prepare(config)
    megatron.check_model(config)  # the toy model exists only now
    machine.prepare(config)
    resume.check_early(config)
    run_view.READY.set()


def check(config: DictConfig) -> None:
    """Refuses a configuration that verl-ext would ignore in part or cannot run.

    Args:
        config: verl's whole configuration.

    Raises:
        SettingsError: names the key, the nearest valid name and the line to type.
    """
    _check_overlays(config)
    _check_engines(config)
    settings = config.algorithm.get("verl_ext") or {}
    refuse_unknown("algorithm.verl_ext", settings, SECTIONS)
    for name, choices in CHOICES.items():
        refuse_unknown(f"algorithm.verl_ext.{name}", [settings.get(name, choices[0])], choices)
    for name in ("verbose", "preload"):
        if not isinstance(settings.get(name, False), bool):
            raise SettingsError(f"algorithm.verl_ext.{name} must be true or false")
    _check_trainer_mode(config, settings)
    plugin_check.check(config, settings)
    test_time.check(config)
    reference_check.check(config, settings)
    tournament_check.check(config)
    _check_toy(config)
    refuse_unknown("algorithm.verl_ext.cpu", settings.get("cpu") or {}, CPU_SIZES)
    _refuse_typed("algorithm.verl_ext.cpu.", "+scale=cpu", unless=_scale() == "cpu")
    on_cpu = config.trainer.device == "cpu"
    _refuse_typed("algorithm.verl_ext.preload=true", "+scale=cpu", unless=on_cpu)
    lengths.check(config, settings)
    _check_packages(config)
    machine.check(config)
    _check_inputs(config)
    reward_function.check(config)


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


def _check_engines(config: DictConfig) -> None:
    """What verl leaves to be said, and what its configuration of another engine does not have."""
    roles = config.actor_rollout_ref
    if OmegaConf.is_missing(roles.rollout, "name"):
        raise SettingsError(
            "actor_rollout_ref.rollout.name is empty: an overlay alone brings no machine. "
            "Add: +scale=cpu (or gpu1, gpu8, gpu64) behind +paper=, or in a command of your own "
            "actor_rollout_ref.rollout.name=vllm"
        )
    strategy = str(roles.actor.strategy)
    engine, its_section = ENGINES.get(strategy, (None, None))
    if engine and its_section not in roles.actor:
        raise SettingsError(
            f"actor_rollout_ref.actor.strategy={strategy} does not choose the engine. "
            f"Add: model_engine={engine}, in the place of that key"
        )


def _check_trainer_mode(config: DictConfig, settings: Mapping[str, Any]) -> None:
    mode = str(config.trainer.v1.trainer_mode)
    if mode.startswith("verl_ext") and mode not in TRAINER_MODES:
        refuse_unknown("trainer.v1.trainer_mode", [mode], TRAINER_MODES)
    for what in _ours_alone(config, settings):
        if mode in STOCK_MODES:
            raise SettingsError(
                f"{what} has no effect under the stock trainer '{mode}'. "
                f"Add: trainer.v1.trainer_mode=verl_ext.{mode}"
            )
        if not config.trainer.use_v1:
            raise SettingsError(f"{what} needs verl's V1 trainer. Add: trainer.use_v1=true")


def _ours_alone(config: DictConfig, settings: Mapping[str, Any]) -> Iterator[str]:
    """What the configuration asks for that only our trainers do, in words."""
    estimator = str(config.algorithm.adv_estimator)
    if fields := declared_fields(estimator):
        yield f"'{estimator}' needs {', '.join(fields)} of each row and"
    for section in (
        "masks", "teacher", "divergence", "sampler", "task_key", "deterministic", "test_time",
        "group_reward",
    ):  # fmt: skip
        defaults = section in ("divergence", "test_time")  # an empty one is all of them
        empty = defaults and settings.get(section) is not None
        if settings.get(section) or empty:
            yield f"algorithm.verl_ext.{section}"
    for name, choices in CHOICES.items():
        if settings.get(name, choices[0]) != choices[0]:
            yield f"algorithm.verl_ext.{name}"


def _check_toy(config: DictConfig) -> None:
    if toy.in_use(config):
        toy.check(config)
        return
    _refuse_typed("algorithm.verl_ext.toy=", "task=toy")


def _scale() -> str | None:
    return HydraConfig.get().runtime.choices.get("scale") if HydraConfig.initialized() else None


def _refuse_typed(start: str, needed: str, *, unless: bool = False) -> None:
    """Refuses an override that the user typed and that has no effect without another."""
    if unless or not HydraConfig.initialized():
        return
    for override in HydraConfig.get().overrides.task:
        if override.lstrip("+").startswith(start):
            raise SettingsError(
                f"'{override}' has no effect without {needed}. Add: {needed}, or remove it"
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
        if files is None and not config.data.custom_cls.path:  # a class of one's own may need none
            raise SettingsError(
                f"data.{key} is empty: this task brings no data. Add: data.{key}=YOUR.parquet, in "
                "verl's columns (data_source, prompt, reward_model)"
            )
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
