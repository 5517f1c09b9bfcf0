"""The stages of QwenLong-L1.5 on the GPU scales: lengths, memory, hours, refusals."""

from pathlib import Path

import pytest
import verl  # loads the plugin  # noqa: F401
from gpu_scales.memory import GB, GPU, RESERVE, memory, parameters
from gpu_scales.scales import (
    ENGINES,
    GPU_SCALES,
    STAGES,
    check_fsdp_topology,
    check_lengths,
    check_megatron_topology,
    longest_sequence,
    sequence_parallel,
    world,
)

from verl_ext.adapters import lengths
from verl_ext.adapters.errors import SettingsError

STAGE_SCALES = [
    (scale, engine, model)
    for scale, model in [("gpu8", "Qwen3-4B"), ("gpu64", "Qwen3-30B-A3B")]
    for engine in ENGINES
]
STAGE_CASES = [
    (*case, stage, length, gpus)
    for stage, (length, numbers) in STAGES.items()
    for case, gpus in zip(STAGE_SCALES, numbers, strict=True)
]
RUNNABLE_STAGES = [case for case in STAGE_CASES if case[-1]]


@pytest.fixture
def staged(typed):
    """Composed configuration and typed actor of a stage, with the paper's overlay."""

    def build(scale, engine, model, stage, *overrides):
        return typed(scale, engine, model, f"task={stage}", *overrides, paper="qwenlong_l15")

    return build


@pytest.mark.parametrize(("scale", "engine", "model", "stage", "length", "gpus"), RUNNABLE_STAGES)
def test_a_full_sequence_of_a_stage_fits_the_gpus_that_share_it(
    staged, models, scale, engine, model, stage, length, gpus
):
    config, actor = staged(scale, engine, model, stage)
    assert longest_sequence(config) == length <= models[model]["max_position_embeddings"]
    assert sequence_parallel(actor.engine) == gpus
    check_lengths(config, actor)
    lengths.check(config, config.algorithm.verl_ext)
    check = check_megatron_topology if engine == "Megatron" else check_fsdp_topology
    check(actor.engine, models[model], world(config))
    cut = gpus * (actor.engine.tensor_model_parallel_size if engine == "Megatron" else 1)
    responses = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
    assert responses % (world(config) // cut) == 0  # verl asserts it in train_mini_batch
    if engine == "FSDP":
        assert gpus <= config.trainer.n_gpus_per_node, "all-to-all of every layer inside a node"


@pytest.mark.parametrize(("scale", "engine", "model", "stage", "length", "gpus"), RUNNABLE_STAGES)
def test_a_stage_fits_80_gb_and_its_row_is_in_the_docs(
    staged, models, scale, engine, model, stage, length, gpus
):
    config, actor = staged(scale, engine, model, stage)
    state, logits, rest, resting = memory(config, actor, models[model])
    vllm = round(GPU * config.actor_rollout_ref.rollout.gpu_memory_utilization)
    assert state + logits + rest <= GPU - RESERVE
    assert resting + vllm <= GPU - RESERVE
    row = (
        f"| {stage[-1]} | {length:,} | `{scale}` | {engine} | {gpus} | {-(-length // gpus):,} of "
        f"{actor.ppo_max_token_len_per_gpu:,} | {state} + {logits} + {rest} = "
        f"{state + logits + rest} | {whole_sequences(config, models[model])} |"
    )
    page = Path(__file__).parents[2] / "docs" / "scales.md"
    assert row in page.read_text(encoding="utf-8"), f"docs/scales.md needs the row\n{row}"


def whole_sequences(config, model):
    """Sequences of full length in the KV cache of one vLLM replica."""
    rollout = config.actor_rollout_ref.rollout
    tensor = rollout.tensor_model_parallel_size
    # Keys and values in bf16, a token; 3 GB: CUDA graphs and the activations of a pass.
    token = 2 * 2 * model["num_key_value_heads"] * model["head_dim"] * model["num_hidden_layers"]
    weights = 2 * parameters(model)[0]
    cache = GPU * GB * rollout.gpu_memory_utilization - weights / tensor - 3 * GB
    return int(cache / (token / tensor) // longest_sequence(config))


def training_minutes(model, active, n_gpus, length):
    """Minutes of a step of 1,024 full sequences at 400 TFLOP/s a GPU, without the generation."""
    width = model["num_attention_heads"] * model["head_dim"]
    attention = 2 * length**2 * width * model["num_hidden_layers"]  # half of it is masked
    weights = 2 * active * length
    # Forward passes: log-probs, loss, recompute. Backward: 2.5 x attention, 2 x the rest.
    flops = (3 + 2.5) * attention + (3 + 2) * weights
    return round(1024 * flops / (n_gpus * 400e12) / 60)


def test_the_hours_that_the_docs_promise_follow_from_the_lengths(models):
    page = (Path(__file__).parents[2] / "docs" / "scales.md").read_text(encoding="utf-8")
    tokens = [length for length, _ in STAGES.values()]
    small = [training_minutes(models["Qwen3-4B"], 4.02e9, 8, length) for length in tokens]
    experts = [training_minutes(models["Qwen3-30B-A3B"], 3.3e9, 64, length) for length in tokens]
    assert "takes {}, {}\n  and {} minutes on `gpu8`".format(*small) in page
    assert "and {}, {} and {} on `gpu64`".format(*experts) in page


@pytest.mark.parametrize(("scale", "engine", "model", "stage", "length", "gpus"), STAGE_CASES)
def test_a_stage_sets_what_its_lengths_ask_of_vllm(
    staged, models, scale, engine, model, stage, length, gpus
):
    rollout = staged(scale, engine, model, stage)[0].actor_rollout_ref.rollout
    assert rollout.max_model_len == length <= models[model]["max_position_embeddings"]
    assert rollout.prompt_length + rollout.response_length == length
    # vLLM: a pass holds a token of each running sequence; only chunked prompts may be longer.
    assert rollout.max_num_seqs <= rollout.max_num_batched_tokens < length
    assert rollout.enable_chunked_prefill
    fits = whole_sequences(staged(scale, engine, model, stage)[0], models[model])
    assert fits >= 1
    assert rollout.max_num_seqs <= 3 * fits
    recipe = Path(__file__).parents[2] / "recipes" / "task" / f"{stage}.yaml"
    model_name = {"gpu8": "Qwen3-4B", "gpu64": "30B-A3B"}[scale]
    assert f"{fits} ({model_name} on {scale})" in recipe.read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("scale", GPU_SCALES)
def test_what_a_stage_sets_beats_the_scale(staged, scale_models, scale, stage):
    config, _ = staged(scale, "FSDP", scale_models[scale][0], stage)
    assert config.actor_rollout_ref.rollout.max_num_seqs == {"1": 32, "2": 16, "3": 8}[stage[-1]]
    assert config.actor_rollout_ref.rollout.val_kwargs.n == 1
    assert config.trainer.experiment_name == stage
    assert config.data.max_response_length > 1024
    assert config.data.train_batch_size == 128  # the paper's


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_asks_for_the_users_data(staged, scale_models, stage):
    # null, which the driver check refuses; ??? would leave verl's own default in place.
    data = staged("gpu8", "FSDP", scale_models["gpu8"][0], stage)[0].data
    assert data.train_files is data.val_files is None


@pytest.mark.parametrize(
    ("scale", "engine", "stage", "way_out"),
    [
        ("gpu8", "Megatron", "qwenlong_l15_stage3", "ppo_max_token_len_per_gpu=87040"),
        ("gpu1", "FSDP", "qwenlong_l15_stage1", "ulysses_sequence_parallel_size"),
        ("gpu1", "Megatron", "qwenlong_l15_stage1", "context_parallel_size"),
        ("cpu", "FSDP", "qwenlong_l15_stage1", "ulysses_sequence_parallel_size"),
    ],
)
def test_a_stage_that_does_not_fit_a_scale_is_refused_in_words(
    staged, scale_models, scale, engine, stage, way_out
):
    config, _ = staged(scale, engine, scale_models[scale][0], stage)
    with pytest.raises(SettingsError, match=f"do not fit .*{way_out}"):
        lengths.check(config, config.algorithm.verl_ext)


def test_stage_three_fits_megatron_on_eight_gpus_without_logits(staged, models):
    # docs/scales.md: the two overrides that the refusal leads to.
    tokens = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=87040"
    fused = "actor_rollout_ref.model.use_fused_kernels=true"
    config, actor = staged("gpu8", "Megatron", "Qwen3-4B", "qwenlong_l15_stage3", tokens, fused)
    lengths.check(config, config.algorithm.verl_ext)
    assert sequence_parallel(actor.engine) == 2
    state, logits, rest, _ = memory(config, actor, models["Qwen3-4B"])
    assert state + rest <= GPU - RESERVE < state + logits + rest
