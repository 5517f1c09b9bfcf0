"""The parallel sizes of the GPU scales divide their models and machines; engines take them."""

import dataclasses

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from gpu_scales.scales import (
    CASES,
    GPU_SCALES,
    LONGER,
    check_fsdp_topology,
    check_megatron_topology,
    sequence_parallel,
    world,
)
from omegaconf import OmegaConf

# Megatron refuses these without Transformer Engine, which has no CPU build.
NEEDS_TRANSFORMER_ENGINE = {"moe_permute_fusion"}


@pytest.mark.parametrize("length", ["own", "long"])
@pytest.mark.parametrize(("scale", "engine", "model"), CASES)
def test_parallel_sizes_divide_the_model_and_the_machine(
    typed, models, scale, engine, model, length
):
    overrides = LONGER[scale, engine] if length == "long" else []
    config, actor = typed(scale, engine, model, *overrides)
    check = check_megatron_topology if engine == "Megatron" else check_fsdp_topology
    check(actor.engine, models[model], world(config))
    rollout = config.actor_rollout_ref.rollout
    assert models[model]["num_attention_heads"] % rollout.tensor_model_parallel_size == 0
    assert models[model]["num_key_value_heads"] % rollout.tensor_model_parallel_size == 0
    assert config.trainer.n_gpus_per_node % rollout.tensor_model_parallel_size == 0


@pytest.mark.parametrize(
    ("scale", "override", "message"),
    [
        ("gpu8", "tensor_model_parallel_size=8", "attention heads"),
        ("gpu8", "tensor_model_parallel_size=7", "kv heads"),
        ("gpu8", "pipeline_model_parallel_size=8", "layers"),
        ("gpu8", "context_parallel_size=3", "context"),
        ("gpu64", "expert_model_parallel_size=24", "experts over"),
        ("gpu64", "expert_tensor_parallel_size=16", "GPUs over experts"),
    ],
)
def test_the_topology_check_sees_a_size_that_does_not_divide(
    typed, models, scale_models, scale, override, message
):
    name = scale_models[scale][0]
    config, actor = typed(scale, "Megatron", name, f"actor_rollout_ref.actor.megatron.{override}")
    with pytest.raises(AssertionError, match=message):
        check_megatron_topology(actor.engine, models[name], world(config))


@pytest.fixture
def megatron_groups():
    """Megatron's process groups as rank 0 of a big machine sees them, without the machine."""
    pytest.importorskip("megatron.core")
    from megatron.core import parallel_state
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if torch.distributed.is_initialized():
        pytest.skip("another test left a process group")

    def initialize(engine, n_gpus):
        torch.distributed.init_process_group("fake", rank=0, world_size=n_gpus, store=FakeStore())
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=engine.tensor_model_parallel_size,
            pipeline_model_parallel_size=engine.pipeline_model_parallel_size,
            context_parallel_size=engine.context_parallel_size,
            expert_model_parallel_size=engine.expert_model_parallel_size,
            expert_tensor_parallel_size=engine.expert_tensor_parallel_size,
            create_gloo_process_groups=False,
        )
        return parallel_state

    yield initialize
    if torch.distributed.is_initialized():
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("scale", GPU_SCALES)
def test_megatron_builds_its_groups_and_keeps_them_inside_a_node(
    typed, scale_models, megatron_groups, scale
):
    config, actor = typed(scale, "Megatron", scale_models[scale][0])
    groups = megatron_groups(actor.engine, world(config))
    tensor, expert = (
        groups.get_tensor_model_parallel_group(),
        groups.get_expert_model_parallel_group(),
    )
    for group in (tensor, expert):
        ranks = torch.distributed.get_process_group_ranks(group)
        assert max(ranks) < config.trainer.n_gpus_per_node
    # The numbers of groups that the comments of actor/gpu*_megatron.yaml name.
    attention_groups = {"gpu1": 1, "gpu8": 2, "gpu64": 16}[scale]
    assert groups.get_data_parallel_world_size() == attention_groups
    if scale == "gpu64":
        assert groups.get_expert_data_parallel_world_size() == 8


@pytest.mark.parametrize(
    ("scale", "model", "stage", "groups"),
    [
        ("gpu8", "Qwen3-4B", "qwenlong_l15_stage2", 1),
        ("gpu64", "Qwen3-30B-A3B", "qwenlong_l15_stage2", 4),
        ("gpu64", "Qwen3-30B-A3B", "qwenlong_l15_stage3", 2),
    ],
)
def test_megatron_builds_the_groups_of_a_long_stage(
    typed, megatron_groups, scale, model, stage, groups
):
    config, actor = typed(scale, "Megatron", model, f"task={stage}", paper="qwenlong_l15")
    built = megatron_groups(actor.engine, world(config))
    assert built.get_context_parallel_world_size() == actor.engine.context_parallel_size > 1
    assert built.get_data_parallel_world_size() == groups


@pytest.mark.parametrize("scale", GPU_SCALES)
def test_megatrons_other_models_get_the_actors_groups(typed, scale_models, scale):
    config, actor = typed(scale, "Megatron", scale_models[scale][0])
    keys = [key for key in config.critic.megatron if key.endswith("parallel_size")]
    assert "expert_model_parallel_size" in keys
    for key in [*keys, "use_mbridge", "vanilla_mbridge", "override_transformer_config"]:
        expected = actor.engine[key]
        assert config.critic.megatron[key] == expected, key
        assert config.actor_rollout_ref.ref.megatron[key] == expected, key


@pytest.mark.parametrize("scale", ["gpu8", "gpu64"])
@pytest.mark.parametrize(
    ("engine", "override"),
    [
        ("FSDP", "ulysses_sequence_parallel_size=2"),
        ("Megatron", "megatron.context_parallel_size=2"),
    ],
)
def test_one_override_cuts_sequences_for_actor_reference_and_critic(
    typed, scale_models, scale, engine, override
):
    from verl.utils.config import omega_conf_to_dataclass

    name = scale_models[scale][0]
    config, actor = typed(scale, engine, name, f"actor_rollout_ref.actor.{override}")
    ref = OmegaConf.to_container(config.actor_rollout_ref.ref)
    for key in [key for key in ref if key.startswith("log_prob_")]:
        del ref[key]  # verl's worker renames them; the lengths are another test
    ref = omega_conf_to_dataclass(OmegaConf.create({**ref, "use_dynamic_bsz": True}))
    for part in (actor, ref, omega_conf_to_dataclass(config.critic)):
        assert sequence_parallel(part.engine) == 2


@pytest.mark.parametrize(("scale", "engine", "model"), [c for c in CASES if c[1] == "Megatron"])
def test_megatron_core_takes_the_transformer_settings(typed, models, scale, engine, model):
    pytest.importorskip("megatron.core")
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.enums import AttnBackend

    engine = typed(scale, engine, model)[1].engine
    overrides = dict(engine.override_transformer_config)
    assert set(overrides) <= {field.name for field in dataclasses.fields(TransformerConfig)}
    # verl's own choices for Megatron-Bridge, which the overrides then beat
    verls = {"moe_token_dispatcher_type": "alltoall", "moe_router_load_balancing_type": "none"}
    settings = verls | overrides
    settings["attention_backend"] = AttnBackend[settings["attention_backend"]]
    for key in NEEDS_TRANSFORMER_ENGINE:
        settings.pop(key, None)
    hf = models[model]
    experts = {}
    if "num_experts" in hf:
        experts = {
            "num_moe_experts": hf["num_experts"],
            "moe_router_topk": hf["num_experts_per_tok"],
            "moe_ffn_hidden_size": hf["moe_intermediate_size"],
        }
    built = TransformerConfig(
        num_layers=hf["num_hidden_layers"],
        hidden_size=hf["hidden_size"],
        ffn_hidden_size=hf["intermediate_size"],
        num_attention_heads=hf["num_attention_heads"],
        num_query_groups=hf["num_key_value_heads"],
        kv_channels=hf["head_dim"],
        gated_linear_unit=True,
        add_bias_linear=False,
        bf16=True,
        params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16,
        variable_seq_lengths=True,
        tensor_model_parallel_size=engine.tensor_model_parallel_size,
        pipeline_model_parallel_size=engine.pipeline_model_parallel_size,
        context_parallel_size=engine.context_parallel_size,
        expert_model_parallel_size=engine.expert_model_parallel_size,
        expert_tensor_parallel_size=engine.expert_tensor_parallel_size,
        sequence_parallel=engine.sequence_parallel,
        **experts,
        **settings,
    )
    assert built.recompute_granularity == "full"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("entropy_from_logits_with_chunking", True),
        ("fsdp_config.use_torch_compile", False),
        ("fsdp_config.param_offload", True),
        ("ulysses_sequence_parallel_size", 4),
    ],
)
def test_an_override_of_the_docs_reaches_the_fsdp_engine(typed, scale_models, key, value):
    override = f"actor_rollout_ref.actor.{key}={value}"
    engine = typed("gpu8", "FSDP", scale_models["gpu8"][0], override)[1].engine
    assert getattr(engine, key.split(".")[-1]) == value
