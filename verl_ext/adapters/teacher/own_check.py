"""Refuses a policy as its own teacher where that would fail, or settings would have no effect."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.sections import read
from verl_ext.adapters.teacher import own_lengths
from verl_ext.adapters.teacher.settings import OWN_SOURCES, Plan, Teacher
from verl_ext.self_teaching.choice import Rules
from verl_ext.self_teaching.texts import Texts

KEY = "algorithm.verl_ext.teacher"
ESTIMATOR = "verl_ext.sdpo"
ROLES = "actor_rollout_ref"
AVERAGED = ("fsdp2", "megatron")  # engines whose weights we know how to exchange


def rules(teacher: Teacher) -> Rules:
    """Whose teacher is shown what.

    Raises:
        SettingsError: names the key, and the nearest valid one.
    """
    found = read(f"{KEY}.hints", Rules, dict(teacher.hints))
    assert found is not None
    return found


def texts(teacher: Teacher) -> Texts:
    """In which words.

    Raises:
        SettingsError: names the key, and the nearest valid one.
    """
    found = read(f"{KEY}.texts", Texts, dict(teacher.texts))
    assert found is not None
    return found


def check_estimator(estimator: str, wanted: Plan) -> None:
    """A policy's own teacher goes with ``verl_ext.sdpo``, another one with ``verl_ext.opd``.

    Raises:
        SettingsError: names both ways out.
    """
    teacher = wanted.teacher
    assert teacher is not None
    if teacher.is_own and estimator != ESTIMATOR:
        raise SettingsError(
            f"{KEY}.source={teacher.source}: the policy is its own teacher under {ESTIMATOR}, and "
            f"the estimator is '{estimator}'. Add: algorithm.adv_estimator={ESTIMATOR} (with "
            f"{estimator} beside it: algorithm.verl_ext.advantage.task_estimator={estimator}), or "
            f"{KEY}.source=ref"
        )
    if not teacher.is_own and estimator == ESTIMATOR:
        raise SettingsError(
            f"'{ESTIMATOR}' is taught by the policy itself, and {KEY}.source={teacher.source} is "
            f"another model. Add: {KEY}.source=ema, or algorithm.adv_estimator=verl_ext.opd"
        )


def check(config: DictConfig, wanted: Plan) -> None:
    """Checks what a teacher of ours asks of the run.

    Args:
        config: verl's whole configuration.
        wanted: with such a teacher.

    Raises:
        SettingsError: names the key and the line to type.
    """
    teacher = wanted.teacher
    assert teacher is not None
    texts(teacher)
    _check_hints(config, rules(teacher))
    if wanted.divergence and wanted.divergence.support != "student":
        raise SettingsError(
            f"algorithm.verl_ext.divergence.support={wanted.divergence.support}: with "
            f"{KEY}.source={teacher.source} the two read different prompts, and the teacher is "
            "asked about the policy's most likely tokens alone. Add: "
            "algorithm.verl_ext.divergence.support=student"
        )
    if (config.get("distillation") or {}).get("enabled"):
        raise SettingsError(
            f"distillation.enabled starts teacher servers that {KEY}.source={teacher.source} "
            "leaves idle. Add: distillation.enabled=false"
        )
    own_lengths.check(config, teacher)
    if teacher.source != "self":
        _check_lora(config, teacher)
    if teacher.source == "ema":
        _check_averaged(config)
    if teacher.source == "trust_region":
        _check_logits(config)


def _check_hints(config: DictConfig, given: Rules) -> None:
    alone = config.actor_rollout_ref.rollout.n == 1 and given.dont_reprompt_on_self_success
    if alone and not given.include_feedback:
        raise SettingsError(
            f"{ROLES}.rollout.n=1: with one response a prompt there is no sibling to show, and "
            f"{KEY}.hints.include_feedback is off, so nobody has a teacher. "
            f"Add: {ROLES}.rollout.n=8, or {KEY}.hints.include_feedback=true"
        )


def _check_lora(config: DictConfig, teacher: Teacher) -> None:
    model = config.actor_rollout_ref.model
    rank = OmegaConf.select(model, "lora.rank") or model.get("lora_rank") or 0
    if rank > 0 or model.get("lora_adapter_path"):
        raise SettingsError(
            f"{KEY}.source={teacher.source} needs weights of its own, and under LoRA verl trains "
            f"an adapter over shared ones. Add: {KEY}.source=self"
        )


def _check_averaged(config: DictConfig) -> None:
    actor = config.actor_rollout_ref.actor
    if actor.strategy not in AVERAGED:
        raise SettingsError(
            f"{KEY}.source=ema exchanges the weights of {' or '.join(AVERAGED)} engines, and "
            f"{ROLES}.actor.strategy is {actor.strategy}. Add: {ROLES}.actor.strategy=fsdp2, or "
            f"{KEY}.source=self"
        )
    overlap = "megatron.override_ddp_config.overlap_param_gather"
    if actor.strategy == "megatron" and OmegaConf.select(actor, overlap):
        raise SettingsError(
            f"{KEY}.source=ema: with {ROLES}.actor.{overlap} Megatron gathers the live weights "
            "inside a forward pass, over the teacher's. "
            f"Add: {ROLES}.actor.{overlap}=false, or {KEY}.source=self"
        )


def _check_logits(config: DictConfig) -> None:
    roles, key = config.actor_rollout_ref, f"{KEY}.source=trust_region"
    if roles.model.get("use_fused_kernels"):
        raise SettingsError(
            f"{key} needs the logits, which fused kernels never make. "
            f"Add: {ROLES}.model.use_fused_kernels=false, or {KEY}.source=ema"
        )
    megatron = roles.actor.get("megatron") if roles.actor.strategy == "megatron" else None
    if megatron and megatron.pipeline_model_parallel_size > 1:
        raise SettingsError(
            f"{key} runs the reference where the live logits are, on the last pipeline stage "
            f"alone. Add: {ROLES}.actor.megatron.pipeline_model_parallel_size=1, or "
            f"{KEY}.source=ema"
        )
    apart = str(config.trainer.v1.trainer_mode).endswith("separate_async")
    if apart and not roles.hybrid_engine:
        raise SettingsError(
            f"{key} needs actor and reference in one process. "
            f"Add: {ROLES}.hybrid_engine=true, or {KEY}.source=ema"
        )


# Key of the section -> the sources for which it has an effect.
SOURCES_OF = {
    "path": ("ref",),
    "on_teacher_failure": ("server",),
    "timeout_s": ("server",),
    "rate": ("ema", "trust_region"),
    "max_prompt_length": OWN_SOURCES,
    "hints": OWN_SOURCES,
    "texts": OWN_SOURCES,
}


def check_keys(given: Mapping[str, Any], teacher: Teacher) -> None:
    """Refuses keys that the teacher's source makes no use of, unless they say what is so anyway.

    Raises:
        SettingsError: names the key and the sources it is for.
    """
    usual = Teacher("self")
    for name, sources in SOURCES_OF.items():
        if teacher.source in sources:
            continue
        default = getattr(usual, name)
        if given.get(name, default) != default:
            raise SettingsError(
                f"{KEY}.{name} is for source={' or '.join(sources)}, and the source is "
                f"{teacher.source}. Remove it: '~{KEY}.{name}'"
            )
