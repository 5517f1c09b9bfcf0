"""Refuses teachers and divergences that would fail, teach something else, or have no effect."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.adapters.estimator_check import check_estimator
from verl_ext.adapters.teacher import own_check, own_lengths
from verl_ext.adapters.teacher.settings import Divergence, Mix, Plan, Teacher, plan
from verl_ext.catalog import MIXERS

KEY = "algorithm.verl_ext"
WITHOUT_GRADIENT = ("kl", "k1")
EXAMPLE = {own_check.ESTIMATOR: "source: ema, max_prompt_length: N"}


def check(config: DictConfig, settings: Mapping[str, Any]) -> None:
    """Checks the sections ``teacher``, ``divergence`` and a mixing estimator's ``advantage``.

    Args:
        config: verl's whole configuration.
        settings: its subtree ``algorithm.verl_ext``.

    Raises:
        SettingsError: names the key and the line to type.
    """
    wanted = plan(config)
    estimator = str(config.algorithm.adv_estimator)
    learns = wanted.mix is not None or wanted.divergence is not None
    if wanted.teacher is None:
        if learns:
            who = f"'{estimator}'" if wanted.mix else f"{KEY}.divergence"
            example = EXAMPLE.get(estimator, "source: ref, path: MODEL")
            raise SettingsError(f"{who} needs a teacher. Add: +{KEY}.teacher={{{example}}}")
        return
    if wanted.teacher.is_own or wanted.mix:
        own_check.check_estimator(estimator, wanted)
    if not learns:
        raise SettingsError(
            f"{KEY}.teacher: nothing learns from it. Add: algorithm.adv_estimator=verl_ext.opd, "
            f"or +{KEY}.divergence={{}}"
        )
    if wanted.mix:
        _check_mix(config, wanted)
    _check_source(config, settings["teacher"], wanted)
    if wanted.divergence:
        _check_divergence(config, wanted.teacher, wanted.divergence)
    actor = config.actor_rollout_ref.actor
    if actor.use_kl_loss and actor.kl_loss_type in WITHOUT_GRADIENT:
        raise SettingsError(
            f"actor_rollout_ref.actor.kl_loss_type={actor.kl_loss_type} back-propagates the "
            "log-ratio of the sampled token, whose expected gradient is zero. Add: "
            "actor_rollout_ref.actor.kl_loss_type=low_var_kl"
        )


def _check_mix(config: DictConfig, wanted: Plan) -> None:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    mix = wanted.mix
    assert mix is not None
    key = f"{KEY}.advantage"
    task = mix.task_estimator
    if task is not None:
        refuse_unknown(f"{key}.task_estimator", [task], set(ADV_ESTIMATOR_REGISTRY) - set(MIXERS))
        check_estimator(
            config, task, mix.task_arguments, f"{key}.task_arguments", f"{key}.task_estimator"
        )
        if task == "gae" and not config.critic.enable:
            raise SettingsError(f"{key}.task_estimator=gae needs a critic. Add: critic.enable=true")
    if not (wanted.has_advantages or wanted.divergence):
        raise SettingsError(
            f"{key}: coef=0 without a task_estimator or {KEY}.divergence teaches nothing. "
            f"Add: {key}.coef=1.0"
        )
    if not wanted.needs_log_probs:
        _refuse_idle(key, mix)
    if mix.log_probs == "rollout" and not config.actor_rollout_ref.rollout.calculate_log_probs:
        raise SettingsError(
            f"{key}.log_probs=rollout needs the sampler's log-probs. Add: "
            "actor_rollout_ref.rollout.calculate_log_probs=true"
        )


def _refuse_idle(key: str, mix: Mix) -> None:
    """What shapes a teacher's term has no effect where its weight is 0."""
    usual = {"discount": 0.0, "center": False, "log_probs": "old"}
    for name, default in usual.items():
        value = {**mix.term, "log_probs": mix.log_probs}[name]
        if value != default:
            raise SettingsError(
                f"{key}.{name}={value} has no effect with {key}.coef=0, which leaves the teacher "
                f"out of the advantage. Add: {key}.coef=1.0, or {key}.{name}={str(default).lower()}"
            )


def _check_source(config: DictConfig, given: Mapping[str, Any], wanted: Plan) -> None:
    teacher = wanted.teacher
    assert teacher is not None
    own_check.check_keys(given, teacher)
    if teacher.is_own:
        own_check.check(config, wanted)
    elif teacher.source == "ref":
        _check_reference(config, teacher)
    else:
        _check_server(config, wanted)


def _check_reference(config: DictConfig, teacher: Teacher) -> None:
    key = f"{KEY}.teacher"
    require_path(teacher)
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    for name, used in (
        ("actor_rollout_ref.actor.use_kl_loss", actor.use_kl_loss),
        ("algorithm.use_kl_in_reward", config.algorithm.use_kl_in_reward),
    ):
        if used:
            raise SettingsError(
                f"{name} is a KL to the reference policy, and with {key}.source=ref the reference "
                f"worker holds the teacher. Add: {name}=false, or {key}.source=server"
            )
    lora = OmegaConf.select(model, "lora.rank") or model.get("lora_rank") or 0
    if lora > 0 or model.get("lora_adapter_path"):
        raise SettingsError(
            f"{key}.source=ref: under LoRA verl's reference is the actor without its adapter, not "
            f"a model of its own. Add: {key}.source=server"
        )
    if _distillation(config).get("enabled"):
        raise SettingsError(
            f"distillation.enabled starts teacher servers that {key}.source=ref leaves idle. "
            f"Add: distillation.enabled=false, or {key}.source=server"
        )


def require_path(teacher: Teacher) -> str:
    """The path of a reference teacher; without one verl would take the student's, silently."""
    if not teacher.path:
        raise SettingsError(
            f"{KEY}.teacher.path: whose weights? With source=ref the reference worker is the "
            f"teacher. Add: {KEY}.teacher.path=MODEL"
        )
    return teacher.path


def _check_server(config: DictConfig, wanted: Plan) -> None:
    key = f"{KEY}.teacher"
    pool = _distillation(config)
    if not pool.get("enabled"):
        raise SettingsError(
            f"{key}.source=server asks verl's teacher servers. Add: distillation.enabled=true "
            "distillation.n_gpus_per_node=1 distillation.nnodes=1 "
            "distillation.teacher_models.teacher_model.model_path=MODEL"
        )
    _check_pool(pool)
    if config.actor_rollout_ref.rollout.temperature != 1.0:
        raise SettingsError(
            f"{key}.source=server: servers give log-probs at temperature 1, the student's are at "
            f"{config.actor_rollout_ref.rollout.temperature}. Add: "
            "actor_rollout_ref.rollout.temperature=1.0"
        )
    if wanted.divergence and wanted.divergence.support != "teacher":
        raise SettingsError(
            f"{KEY}.divergence.support={wanted.divergence.support}: a server gives its own most "
            f"likely tokens alone. Add: {KEY}.divergence.support=teacher, or {key}.source=ref"
        )
    if wanted.divergence and wanted.needs_log_probs:
        raise SettingsError(
            f"{KEY}.divergence and {KEY}.advantage.coef: a server is asked once, for its most "
            f"likely tokens or for the sampled ones. Add: {KEY}.advantage.coef=0.0, or "
            f"{key}.source=ref"
        )


def _check_pool(pool: Mapping[str, Any]) -> None:
    """verl drops an entry of this name without a word as soon as there is another."""
    teachers = pool.get("teacher_models") or {}
    first = teachers.get("teacher_model") or {}
    if len(teachers) > 1 and first.get("model_path"):
        raise SettingsError(
            "distillation.teacher_models.teacher_model: beside other teachers verl drops the one "
            "of this name. Name it otherwise: +distillation.teacher_models.first.model_path="
            f"{first['model_path']}"
        )


def _check_divergence(config: DictConfig, teacher: Teacher, wanted: Divergence) -> None:
    key = f"{KEY}.divergence"
    model, actor = config.actor_rollout_ref.model, config.actor_rollout_ref.actor
    if model.get("use_fused_kernels"):
        raise SettingsError(
            f"{key} needs the logits, which fused kernels never make. "
            "Add: actor_rollout_ref.model.use_fused_kernels=false"
        )
    megatron = actor.get("megatron") if actor.strategy == "megatron" else None
    if teacher.source == "ref" and megatron and megatron.pipeline_model_parallel_size > 1:
        raise SettingsError(
            f"{key} with {KEY}.teacher.source=ref runs the teacher where the student's logits "
            "are, on the last pipeline stage alone. Add: actor_rollout_ref.actor.megatron."
            f"pipeline_model_parallel_size=1, or {KEY}.teacher.source=server"
        )
    apart = str(config.trainer.v1.trainer_mode).endswith("separate_async")
    if teacher.source == "ref" and apart and not config.actor_rollout_ref.hybrid_engine:
        raise SettingsError(
            f"{key} with {KEY}.teacher.source=ref needs actor and reference in one process. "
            f"Add: actor_rollout_ref.hybrid_engine=true, or {KEY}.teacher.source=server"
        )
    alpha = wanted.arguments["alpha"]
    if 0 < min(alpha, 1 - alpha) < 0.02:
        print(
            f"[verl_ext] {key}.alpha={alpha}: the Jensen-Shannon divergence vanishes towards 0 "
            "and 1, where the KL divergences do not. Did you mean forward_kl or reverse_kl?"
        )


def prepare(config: DictConfig) -> None:
    """Writes down who the teacher is, and asks verl's servers for what the run reads of them."""
    wanted = plan(config)
    if wanted.teacher is None:
        return
    # Found now: whether the run is on the toy shows only while its paths are still unresolved.
    if wanted.teacher.is_own:
        own_lengths.check_model(config, wanted.teacher)
        config.algorithm.verl_ext.teacher.texts = dict(wanted.teacher.texts)
        return
    if wanted.teacher.source == "ref":
        config.algorithm.verl_ext.teacher.path = require_path(wanted.teacher)
        return
    loss = config.distillation.distillation_loss
    if wanted.divergence:
        loss.loss_mode, loss.topk = "forward_kl_topk", wanted.divergence.top_k
        loss.use_policy_gradient = False
    else:  # the log-prob of the sampled token; the loss itself is ours
        loss.loss_mode, loss.use_policy_gradient = "k1", True


def _distillation(config: DictConfig) -> Mapping[str, Any]:
    section: Mapping[str, Any] = config.get("distillation") or {}
    return section
