"""The sequences of every task fit a forward pass of every GPU scale, or GPUs that share one."""

import pytest
import verl  # loads the plugin  # noqa: F401
from gpu_scales.scales import (
    CASES,
    ENGINES,
    GPU_SCALES,
    LONG,
    LONGER,
    STAGES,
    check_lengths,
    longest_sequence,
    sequence_parallel,
)

from verl_ext import overlays
from verl_ext.adapters import lengths


# The toy task brings its own model and 80 tokens a sequence; test_gpu_stages.py has the stages.
@pytest.mark.parametrize(
    "task", [name for name in overlays.names("task") if name != "toy" and name not in STAGES]
)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", GPU_SCALES)
def test_a_sequence_of_every_task_fits_a_forward_pass(typed, scale_models, scale, engine, task):
    check_lengths(*typed(scale, engine, scale_models[scale][0], f"task={task}"))


@pytest.mark.parametrize(("scale", "engine", "model"), CASES)
def test_the_papers_longest_responses_fit_with_the_override_of_the_docs(
    typed, models, scale, engine, model
):
    long = f"data.max_response_length={LONG}"
    config, actor = typed(scale, engine, model, long, *LONGER[scale, engine])
    check_lengths(config, actor)
    assert longest_sequence(config) <= models[model]["max_position_embeddings"]
    for left_out in LONGER[scale, engine]:
        if "use_fused_kernels" in left_out:
            continue
        kept = [override for override in LONGER[scale, engine] if override != left_out]
        with pytest.raises(AssertionError):
            check_lengths(*typed(scale, engine, model, long, *kept))


@pytest.mark.parametrize(
    ("tokens", "gpus"), [(1024, 1), (21760, 1), (21761, 2), (43521, 4), (174080, 8), (174081, 8)]
)
def test_a_sequence_gets_the_fewest_gpus_that_hold_it_and_divide_the_node(tokens, gpus):
    assert lengths.gpus_per_sequence(tokens, 21760, 8) == gpus


def test_gpus_that_share_a_sequence_divide_an_odd_node_too():
    # Three GPUs hold 2.5 times the tokens of one; five would not divide six.
    assert lengths.gpus_per_sequence(25, 10, 6) == 3
    assert lengths.gpus_per_sequence(35, 10, 6) == 6


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_number_that_is_not_positive_is_refused(numbers):
    with pytest.raises(ValueError, match="needs positive numbers"):
        lengths.gpus_per_sequence(*numbers)


@pytest.mark.parametrize("override", ["16384", "8192"])
def test_fewer_tokens_a_gpu_bring_more_gpus_a_sequence(typed, override):
    tokens = f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={override}"
    long = f"data.max_response_length={LONG}"
    config, actor = typed("gpu8", "FSDP", "Qwen3-8B", long, tokens)
    assert sequence_parallel(actor.engine) == 32768 // int(override)
    check_lengths(config, actor)
