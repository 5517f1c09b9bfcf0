"""The GPU scales fit 80 GB, by the estimates that docs/scales.md shows."""

from pathlib import Path

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from gpu_scales.memory import GPU, RESERVE, memory, parameters
from gpu_scales.scales import CASES, LONGER


def test_parameter_counts_are_the_published_ones(models):
    # The model cards: 0.49B, 1.54B, 7.61B (7.62 with biases), 8.2B, 4.0B, 30.5B (3.3B active).
    counts = {name: round(parameters(model)[0] / 1e9, 2) for name, model in models.items()}
    assert counts == {
        "Qwen2.5-0.5B": 0.49,
        "Qwen2.5-1.5B": 1.54,
        "Qwen2.5-7B": 7.62,
        "Qwen3-8B": 8.19,
        "Qwen3-4B": 4.02,
        "Qwen3-30B-A3B": 30.53,
    }


@pytest.mark.parametrize(("scale", "engine", "model"), CASES)
def test_the_estimate_fits_80_gb_and_is_the_one_in_the_docs(typed, models, scale, engine, model):
    config, actor = typed(scale, engine, model)
    state, logits, rest, resting = memory(config, actor, models[model])
    vllm = round(GPU * config.actor_rollout_ref.rollout.gpu_memory_utilization)
    assert state + logits + rest <= GPU - RESERVE
    assert resting + vllm <= GPU - RESERVE
    row = (
        f"| `{scale}` | {engine} | {model} | {actor.ppo_max_token_len_per_gpu:,} "
        f"| {state} | {logits} | {rest} | {state + logits + rest} | {resting} + {vllm} |"
    )
    page = Path(__file__).parents[2] / "docs" / "scales.md"
    assert row in page.read_text(encoding="utf-8"), f"docs/scales.md needs the row\n{row}"


@pytest.mark.parametrize(
    ("scale", "engine"), [case for case in LONGER if case != ("gpu1", "Megatron")]
)
def test_the_longest_responses_fit_80_gb(typed, models, scale_models, scale, engine):
    name = scale_models[scale][0]
    config, actor = typed(scale, engine, name, *LONGER[scale, engine])
    assert sum(memory(config, actor, models[name])[:3]) <= GPU - RESERVE


@pytest.mark.parametrize(
    ("scale", "engine", "override"),
    [
        ("gpu8", "Megatron", "megatron.tensor_model_parallel_size=1"),
        ("gpu64", "Megatron", "megatron.tensor_model_parallel_size=1"),
        ("gpu64", "FSDP", "fsdp_config.fsdp_size=8"),
        ("gpu1", "Megatron", "ppo_max_token_len_per_gpu=32768"),
        ("gpu8", "Megatron", "ppo_max_token_len_per_gpu=87040"),
    ],
)
def test_the_estimate_sees_what_the_comments_say_does_not_fit(
    typed, models, scale_models, scale, engine, override
):
    name = scale_models[scale][0]
    config, actor = typed(scale, engine, name, f"actor_rollout_ref.actor.{override}")
    assert sum(memory(config, actor, models[name])[:3]) > GPU - RESERVE


def test_verls_master_weights_must_be_fp32_for_the_rotary_frequencies(models):
    # Why ref/gpu_dp.yaml does not save host memory with model_dtype=bf16: verl's FSDP engine calls
    # module.to(model_dtype), which rounds the buffer too. At position 10,000 that is whole radians.
    from transformers import AutoConfig, AutoModelForCausalLM

    small = models["Qwen2.5-0.5B"] | {"num_hidden_layers": 1, "vocab_size": 8}
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**small))
    exact = module.model.rotary_emb.inv_freq.clone()
    rounded = module.to(torch.bfloat16).model.rotary_emb.inv_freq.float()
    assert (10_000 * (rounded - exact)).abs().max() > 1.0
