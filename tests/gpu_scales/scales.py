"""The GPU scales: models, engines, stages, and what must divide and fit in each of them."""

from verl_ext import overlays

GPU_SCALES = [name for name in overlays.names("scale") if name.startswith("gpu")]
ENGINES = {"FSDP": [], "Megatron": ["model_engine=megatron"]}
CASES = [
    (scale, engine, model)
    for scale, model in [
        ("gpu1", "Qwen2.5-0.5B"),
        ("gpu1", "Qwen2.5-1.5B"),
        ("gpu8", "Qwen2.5-7B"),
        ("gpu8", "Qwen3-8B"),
        ("gpu64", "Qwen3-30B-A3B"),
    ]
    for engine in ENGINES
]
LONG = 31744  # response tokens, Qwen3-4B in W-REINFORCE; with the prompt 32,768
# What docs/scales.md says to add for such responses. None of it: the scale's own settings suffice.
LONGER = {
    ("gpu1", "FSDP"): ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=32768"],
    ("gpu1", "Megatron"): [
        "actor_rollout_ref.model.use_fused_kernels=true",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=32768",
    ],
    ("gpu8", "FSDP"): [],
    ("gpu8", "Megatron"): [],
    ("gpu64", "FSDP"): [],
    ("gpu64", "Megatron"): [],
}
# The stages of QwenLong-L1.5: a task, its tokens a sequence, and the GPUs that share one (Ulysses,
# context parallel) on each of STAGE_SCALES (test_gpu_stages.py). Megatron on eight GPUs ends at
# 81,920 tokens.
STAGES = {
    "qwenlong_l15_stage1": (20 * 1024 + 12 * 1024, [2, 1, 2, 1]),
    "qwenlong_l15_stage2": (60 * 1024 + 20 * 1024, [4, 2, 4, 4]),
    "qwenlong_l15_stage3": (120 * 1024 + 50 * 1024, [8, None, 8, 8]),
}


def world(config):
    return config.trainer.n_gpus_per_node * config.trainer.nnodes


def sequence_parallel(engine):
    if engine.strategy == "megatron":
        return engine.context_parallel_size
    return engine.ulysses_sequence_parallel_size


def check_megatron_topology(engine, model, n_gpus):
    tensor, pipeline = engine.tensor_model_parallel_size, engine.pipeline_model_parallel_size
    expert, expert_tensor = engine.expert_model_parallel_size, engine.expert_tensor_parallel_size
    assert model["num_attention_heads"] % tensor == 0, "attention heads over tensor parallel ranks"
    assert model["num_key_value_heads"] % tensor == 0, "kv heads over tensor parallel ranks"
    assert model["num_hidden_layers"] % pipeline == 0, "layers over pipeline stages"
    assert model.get("num_experts", expert) % expert == 0, "experts over expert parallel ranks"
    attention_cut = tensor * pipeline * engine.context_parallel_size
    assert n_gpus % attention_cut == 0, "GPUs over tensor x pipeline x context"
    assert n_gpus % ((expert_tensor or tensor) * expert * pipeline) == 0, "GPUs over experts"
    assert engine.sequence_parallel == (tensor > 1)


def check_fsdp_topology(engine, model, n_gpus):
    ulysses = engine.ulysses_sequence_parallel_size
    heads, kv_heads = model["num_attention_heads"], model["num_key_value_heads"]
    assert heads % ulysses == 0, "attention heads over Ulysses ranks"
    assert kv_heads % ulysses == 0 or ulysses % kv_heads == 0, "kv heads over Ulysses ranks"
    assert n_gpus % ulysses == 0
    assert engine.fsdp_size == -1 or n_gpus % engine.fsdp_size == 0


def longest_sequence(config):
    return config.data.max_prompt_length + config.data.max_response_length


def check_lengths(config, actor):
    """verl asserts these token budgets against the longest sequence, in the middle of a step."""
    rollout, ref, critic = (
        config.actor_rollout_ref.rollout,
        config.actor_rollout_ref.ref,
        config.critic,
    )
    budgets = (
        actor.ppo_max_token_len_per_gpu,
        rollout.log_prob_max_token_len_per_gpu,
        ref.log_prob_max_token_len_per_gpu,
        critic.ppo_infer_max_token_len_per_gpu,
    )
    for budget in budgets:
        assert budget * sequence_parallel(actor.engine) >= longest_sequence(config)
