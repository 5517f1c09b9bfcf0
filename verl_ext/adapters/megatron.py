"""Can verl's Megatron engine do what the configuration asks of it, here?

verl itself says "backend not in registry" a minute after the start when a package is missing, and
leaves sizes to assertions inside its workers.
"""

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from packaging.specifiers import SpecifierSet
from verl.trainer.ppo.utils import need_critic, need_reference_policy

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.names import MEGATRON_EXTRA
from verl_ext.adapters.run_length import updates
from verl_ext.adapters.teacher.settings import plan
from verl_ext.platforms import megatron_patches

# Settings of an engine that have no CPU counterpart: key, values that are fine, reason.
_CPU_CANNOT: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("param_offload", (False,), "the model is in host memory already, so it would have no effect"),
    ("optimizer_offload", (False,), "the optimizer is in host memory already: no effect"),
    ("use_distributed_optimizer", (True,), "verl 0.9.1 sends weights to the rollout from its "
     "buffers (on GPUs too)"),
    ("use_megatron_fsdp", (False,), "Megatron-FSDP is built on CUDA streams; model_engine=dp is "
     "FSDP2 and runs here"),
    ("dynamic_context_parallel", (False,), "it asks for a Megatron-core newer than the 0.16 that "
     "is proven on CPUs; use context_parallel_size"),
    ("router_replay.mode", ("disabled", "R2"), "vLLM-CPU does not report routed experts; R2 "
     "records them in the trainer"),
    ("qat.enable", (False,), "quantised training needs CUDA kernels"),
    ("override_transformer_config.fp8", (None, False), "8-bit arithmetic is Transformer Engine's"),
    ("dtype", ("float32", "bfloat16"), "16 bits are supported as bfloat16 alone"),
)  # fmt: skip


MEGATRONS_BETAS = (0.9, 0.999)  # of its OptimizerConfig, and of verl's configuration


def check(config: DictConfig, *, on_cpu: bool, workers_share_packages: bool) -> None:
    """Refuses what would fail in a worker a minute later.

    Args:
        config: verl's whole configuration.
        on_cpu: whether the CPU platform runs it.
        workers_share_packages: whether the workers see what is installed here.

    Raises:
        SettingsError: a package is missing, the parallel sizes do not multiply to the number of
            workers, or the CPU platform is not made for a version or has no counterpart of a
            setting.
    """
    for key, engine in _engines(config):
        if workers_share_packages:
            _check_packages(key, engine)
            if on_cpu:
                _check_versions()
        _check_sizes(key, engine, config.trainer.n_gpus_per_node * config.trainer.nnodes)
        if on_cpu:
            _check_cpu(key, engine, config.actor_rollout_ref.model)
    if config.actor_rollout_ref.actor.strategy == "megatron":
        _check_betas(config.actor_rollout_ref.actor.optim)
        _check_warm_up(config.actor_rollout_ref.actor.optim, updates(config.trainer))


def check_model(config: DictConfig) -> None:
    """Refuses layouts that do not divide the model; looks at models on this disk alone.

    Raises:
        SettingsError: heads or layers do not split as asked.
    """
    path = Path(str(config.actor_rollout_ref.model.path)).expanduser() / "config.json"
    if not path.is_file():
        return
    model = json.loads(path.read_text())
    if not {"num_attention_heads", "num_hidden_layers"} <= model.keys():
        return  # a model of several parts, whose sizes Megatron itself knows
    for key, engine in _engines(config):
        tensor, pipeline = (engine[f"{x}_model_parallel_size"] for x in ("tensor", "pipeline"))
        heads = model["num_attention_heads"]
        kv_heads = model.get("num_key_value_heads") or heads
        # More ranks than key-value heads: Megatron gives several ranks the same head.
        if heads % tensor or (kv_heads % tensor and tensor % kv_heads):
            raise SettingsError(
                f"{key}.tensor_model_parallel_size={tensor} does not split the model's {heads} "
                f"heads and {kv_heads} key-value heads"
            )
        layers = model["num_hidden_layers"]
        stages = pipeline * (engine.virtual_pipeline_model_parallel_size or 1)
        uneven = [k for k in engine.override_transformer_config if "pipeline" in str(k)]
        if layers % stages and not uneven:
            raise SettingsError(
                f"{key}.pipeline_model_parallel_size={pipeline} makes {stages} pipeline stages, "
                f"which the model's {layers} layers do not fill evenly. Say how many the first "
                f"rank takes: "
                f"+{key}.override_transformer_config.num_layers_in_first_pipeline_stage="
                f"{math.ceil(layers / pipeline)}"
            )


def missing(*, vanilla_mbridge: bool) -> list[str]:
    """Packages that verl's Megatron engine needs and this environment lacks."""
    bridge = "mbridge" if vanilla_mbridge else "megatron.bridge"
    return [name for name in ("megatron.core", bridge) if not _importable(name)]


def _importable(name: str) -> bool:
    package, _, module = name.rpartition(".")
    if package and importlib.util.find_spec(package) is None:
        return False
    return importlib.util.find_spec(name if not package else f"{package}.{module}") is not None


def _engines(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Key and settings of each Megatron engine that the run builds."""
    roles = config.actor_rollout_ref
    if roles.actor.strategy == "megatron":
        yield "actor_rollout_ref.actor.megatron", roles.actor.megatron
        teacher = plan(config).teacher
        if need_reference_policy(config) or (teacher is not None and teacher.needs_reference):
            yield "actor_rollout_ref.ref.megatron", roles.ref.megatron
    if config.critic.strategy == "megatron" and need_critic(config):
        yield "critic.megatron", config.critic.megatron


def _check_packages(key: str, engine: Any) -> None:
    absent = missing(vanilla_mbridge=engine.vanilla_mbridge)
    if not absent:
        return
    fix = MEGATRON_EXTRA
    if absent == ["megatron.bridge"]:
        fix = f"pip install 'verl[megatron]', or add: {key}.vanilla_mbridge=true ({MEGATRON_EXTRA})"
    raise SettingsError(f"model_engine=megatron needs {' and '.join(absent)}: {fix}")


def _check_versions() -> None:
    installed = [p for p in megatron_patches.CHECKED if _importable(p.replace("-", "."))]
    for package in installed:
        checked, found = megatron_patches.CHECKED[package], version(package)
        if found not in SpecifierSet(checked):
            raise SettingsError(
                f"the CPU platform's Megatron layers are made for {package}{checked}, and {found} "
                f"is installed: {MEGATRON_EXTRA}"
            )


def _check_sizes(key: str, engine: Any, workers: int) -> None:
    pipeline = engine.pipeline_model_parallel_size
    tensor, context = engine.tensor_model_parallel_size, engine.context_parallel_size
    expert = engine.expert_model_parallel_size
    expert_tensor = engine.expert_tensor_parallel_size or tensor
    products = {
        f"tensor {tensor} x pipeline {pipeline} x context {context}": tensor * pipeline * context,
        f"expert {expert} x expert tensor {expert_tensor} x pipeline {pipeline}": expert
        * expert_tensor
        * pipeline,
    }
    for words, product in products.items():
        if workers % product:
            raise SettingsError(
                f"{key}: {words} = {product} does not divide {workers} worker(s). Change the "
                f"parallel sizes or the number of workers: trainer.n_gpus_per_node={product}"
            )


def _check_betas(optim: Any) -> None:
    """verl hands Megatron's Adam everything but these."""
    betas, override = tuple(optim.betas), optim.get("override_optimizer_config") or {}
    theirs = tuple(override.get(f"adam_beta{n}", MEGATRONS_BETAS[n - 1]) for n in (1, 2))
    if str(optim.optimizer).lower() == "adam" and betas not in (MEGATRONS_BETAS, theirs):
        key = "actor_rollout_ref.actor.optim"
        raise SettingsError(
            f"{key}.betas={list(betas)} has no effect on Megatron, whose Adam has {list(theirs)}. "
            f"Add: '+{key}.override_optimizer_config={{adam_beta1: {betas[0]}, adam_beta2: "
            f"{betas[1]}}}'"
        )


def _check_warm_up(optim: Any, total_steps: int | None) -> None:
    """Megatron's schedule wants steps after its warm-up, and says so by a bare assertion."""
    steps = optim.get("lr_decay_steps") or total_steps
    if steps is None:
        return
    name, warm_up, fine = "lr_warmup_steps", optim.lr_warmup_steps or 0, steps - 1
    if warm_up <= 0:
        name, fine = "lr_warmup_steps_ratio", 0
        warm_up = int((optim.get(name) or 0) * steps)
    if warm_up >= steps:
        key = f"actor_rollout_ref.actor.optim.{name}"
        raise SettingsError(
            f"{key}={optim[name]} is all of the {steps} steps, and Megatron's schedule "
            f"wants some after its warm-up. Add: {key}={fine}"
        )


def _check_cpu(key: str, engine: Any, model: Mapping[str, Any]) -> None:
    for name, fine, reason in _CPU_CANNOT:
        value = OmegaConf.select(engine, name)
        if value not in fine:
            raise SettingsError(
                f"{key}.{name}={value} does not work on the CPU platform: {reason}. "
                f"Fine is: {', '.join(str(v) for v in fine)}"
            )
    if model.get("use_fused_kernels"):
        raise SettingsError(
            "actor_rollout_ref.model.use_fused_kernels=true does not work on the CPU platform: "
            "the kernels are Triton's. Set it to false"
        )
    if model.get("lora_rank") or (model.get("lora") or {}).get("rank"):
        raise SettingsError(
            "LoRA on Megatron needs Megatron-Bridge, which does not run on the CPU platform. "
            "Use model_engine=dp"
        )
