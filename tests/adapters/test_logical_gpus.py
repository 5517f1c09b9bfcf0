"""Logical GPUs of a CPU run."""

import pytest
import verl  # loads the plugin  # noqa: F401
from hydra import compose, initialize_config_module


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 1),
        (["trainer.n_gpus_per_node=2"], 2),
        (["distillation.n_gpus_per_node=2", "distillation.nnodes=1"], 1),  # not enabled
        (["distillation.enabled=true", "distillation.n_gpus_per_node=2"], 1),  # no node of theirs
        (
            [
                "trainer.n_gpus_per_node=2",
                "distillation.enabled=true",
                "distillation.n_gpus_per_node=3",
                "distillation.nnodes=1",
            ],
            5,
        ),
    ],
)
def test_the_cpu_scale_asks_ray_for_a_gpu_per_worker_and_per_teacher_server(overrides, expected):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+scale=cpu", *overrides])
    assert config.ray_kwargs.ray_init.num_gpus == expected


def test_a_teacher_server_on_the_cpu_is_set_up_like_the_policys():
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+scale=cpu"])
    theirs = config.distillation.teacher_models.teacher_model.inference
    ours = config.actor_rollout_ref.rollout
    for key in (
        "dtype", "enforce_eager", "tensor_model_parallel_size", "enable_sleep_mode",
        "free_cache_engine", "gpu_memory_utilization", "max_num_seqs", "enable_chunked_prefill",
        "enable_prefix_caching", "max_num_batched_tokens",
    ):  # fmt: skip
        assert theirs[key] == ours[key], key
