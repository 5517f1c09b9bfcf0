"""How much of 80 GB a scale takes: the estimates of docs/scales.md.

Nothing here has run on a GPU; the tests keep page, YAML and arithmetic the same.
"""

import functools

import torch
from gpu_scales.scales import world

GB = 1e9
GPU = 80  # GB
RESERVE = 8  # GB: CUDA contexts, NCCL buffers, a sleeping vLLM, fragmentation


def parameters(model):
    """(all, in experts, in embedding and head, in one layer) of a Hugging Face configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(**model))
    sizes = {name: weight.numel() for name, weight in built.named_parameters()}
    experts = sum(size for name, size in sizes.items() if "experts" in name)
    ends = sum(size for name, size in sizes.items() if "embed" in name or "lm_head" in name)
    layer = sum(size for name, size in sizes.items() if ".layers.0." in name)
    return sum(sizes.values()), experts, ends, layer


def activations(model, tokens):
    """Bytes: each layer's saved input in bf16, and what one layer needs while it is recomputed."""
    hidden, layers = model["hidden_size"], model["num_hidden_layers"]
    saved = 2 * hidden * layers
    if (
        "num_experts" in model
    ):  # each token's rows in its experts; 3: some experts get more than others
        rows = 3 * model["num_experts_per_tok"]
        inside = 16 * hidden + rows * 2 * (2 * hidden + 3 * model["moe_intermediate_size"])
    else:
        inside = 16 * hidden + 8 * model["intermediate_size"]
    return tokens * (saved + inside)


def fsdp_memory(engine, model, n_gpus, tokens, *, scaled=False):
    """Bytes a GPU: (state, logits, the rest, what stays during rollout).

    scaled: a rollout temperature other than 1 divides the logits into a second copy.
    """
    everything, _, ends, layer = parameters(model)
    shard = n_gpus if engine.fsdp_size == -1 else engine.fsdp_size
    state = 16 * everything / shard
    logits = (10 if scaled else 8) * model["vocab_size"] * tokens
    # FSDP2 keeps embedding and head gathered, bf16 weights and fp32 gradients; two layers travel.
    gathered = (2 + 4) * ends + 2 * (2 + 4) * layer if shard > 1 else 2 * everything
    resting = (0 if engine.param_offload else 4) + (0 if engine.optimizer_offload else 8)
    return (
        state,
        logits,
        gathered + activations(model, tokens),
        resting * everything / shard,
    )


def megatron_memory(engine, model, n_gpus, tokens):
    """Bytes a GPU: (state, logits, the rest, what stays during rollout)."""
    everything, experts, _, _ = parameters(model)
    tensor = engine.tensor_model_parallel_size
    cuts = [(everything - experts, tensor)]
    expert_cut = engine.expert_model_parallel_size * (engine.expert_tensor_parallel_size or tensor)
    cuts.append((experts, expert_cut))
    assert engine.pipeline_model_parallel_size == 1
    weights = sum(size / cut for size, cut in cuts)
    optimizer = sum(12 * size / cut / (n_gpus / cut) for size, cut in cuts)
    logits = 20 * model["vocab_size"] / tensor * tokens
    resting = (0 if engine.param_offload else 6 * weights) + (
        0 if engine.optimizer_offload else optimizer
    )
    return 6 * weights + optimizer, logits, activations(model, tokens) / tensor, resting


def memory(config, actor, model):
    """GB a GPU, rounded up: state, logits, rest, trainer's share while vLLM runs."""
    scaled = config.actor_rollout_ref.rollout.temperature != 1
    fsdp = functools.partial(fsdp_memory, scaled=scaled)
    estimate = megatron_memory if actor.strategy == "megatron" else fsdp
    figures = estimate(actor.engine, model, world(config), actor.ppo_max_token_len_per_gpu)
    return [-int(-figure // GB) for figure in figures]
