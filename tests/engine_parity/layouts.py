"""How the ranks share the model and the batch, and how the batch is cut into forward passes."""

MEGATRON = "actor_rollout_ref.actor.megatron"
UNPACKED = "actor_rollout_ref.model.use_remove_padding=false"
PACKED = "actor_rollout_ref.model.use_remove_padding=true"
# name: engine, ranks, overrides
LAYOUTS = {
    "fsdp": ("dp", 1, []),
    "fsdp_dp2": ("dp", 2, []),
    "megatron": ("megatron", 1, []),
    "megatron_unpacked": ("megatron", 1, [UNPACKED]),
    "tp2": ("megatron", 2, [f"{MEGATRON}.tensor_model_parallel_size=2"]),
    "tp2_unpacked": ("megatron", 2, [f"{MEGATRON}.tensor_model_parallel_size=2", UNPACKED]),
    "tp2_not_sequence_parallel": (
        "megatron",
        2,
        [
            f"{MEGATRON}.tensor_model_parallel_size=2",
            f"{MEGATRON}.sequence_parallel=false",
            f"+{MEGATRON}.override_transformer_config.sequence_parallel=false",
        ],
    ),
    "pp2": ("megatron", 2, [f"{MEGATRON}.pipeline_model_parallel_size=2"]),
    "cp2": ("megatron", 2, [f"{MEGATRON}.context_parallel_size=2"]),
    "cp2_unpacked": ("megatron", 2, [f"{MEGATRON}.context_parallel_size=2", UNPACKED]),
    "megatron_dp2": ("megatron", 2, []),
    "megatron_recompute": (
        "megatron",
        1,
        [
            f"{MEGATRON}.override_transformer_config.recompute_granularity=full",
            f"{MEGATRON}.override_transformer_config.recompute_method=uniform",
            f"{MEGATRON}.override_transformer_config.recompute_num_layers=1",
        ],
    ),
}
INTERLEAVED = (
    "megatron",
    2,
    [
        f"{MEGATRON}.pipeline_model_parallel_size=2",
        f"{MEGATRON}.virtual_pipeline_model_parallel_size=2",
    ],
)
UNEVEN = (
    "megatron",
    2,
    [
        f"{MEGATRON}.pipeline_model_parallel_size=2",
        f"+{MEGATRON}.override_transformer_config.num_layers_in_first_pipeline_stage=2",
    ],
)
EXPERT_LAYOUTS = {
    "fsdp": LAYOUTS["fsdp"],
    "megatron": LAYOUTS["megatron"],
    "tp2": LAYOUTS["tp2"],
    "ep2": ("megatron", 2, [f"{MEGATRON}.expert_model_parallel_size=2"]),
    "ep2_tp2": (
        "megatron",
        2,
        [
            f"{MEGATRON}.expert_model_parallel_size=2",
            f"{MEGATRON}.tensor_model_parallel_size=2",
            f"{MEGATRON}.expert_tensor_parallel_size=1",
        ],
    ),
}
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
REF = "actor_rollout_ref.ref"
# How the rows are cut into forward passes; the batch has 8 rows of 5 to 18 tokens.
MICRO_BATCHES = {
    "rows_of_one": [
        f"{ACTOR}.use_dynamic_bsz=false",
        f"{ACTOR}.ppo_micro_batch_size_per_gpu=1",
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=1",
        f"{REF}.log_prob_micro_batch_size_per_gpu=1",
    ],
    "rows_of_two": [
        f"{ACTOR}.use_dynamic_bsz=false",
        f"{ACTOR}.ppo_micro_batch_size_per_gpu=2",
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=2",
        f"{REF}.log_prob_micro_batch_size_per_gpu=2",
    ],
    "by_tokens": [
        f"{ACTOR}.ppo_max_token_len_per_gpu=32",
        f"{ROLLOUT}.log_prob_max_token_len_per_gpu=32",
        f"{REF}.log_prob_max_token_len_per_gpu=32",
    ],
}
PADDED = {
    "megatron": [f"{MEGATRON}.pad_to_length=true", f"{MEGATRON}.pad_to_length_bucket=64"],
    "tp2": [f"{MEGATRON}.pad_to_length=true", f"{MEGATRON}.pad_to_length_bucket=64"],
    "megatron_unpacked": [
        f"{MEGATRON}.pad_bshd_to_minibatch_max=false",
        *MICRO_BATCHES["rows_of_two"],
    ],
}
