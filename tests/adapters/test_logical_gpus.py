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
        (["actor_rollout_ref.rollout.n_gpus_per_node=2"], 1),  # servers are the trainer's own
        (["trainer.v1.trainer_mode=verl_ext.separate_async"], 2),
        (
            [
                "trainer.v1.trainer_mode=verl_ext.separate_async",
                "actor_rollout_ref.rollout.n_gpus_per_node=2",
            ],
            3,
        ),
    ],
)
def test_the_cpu_scale_asks_ray_for_a_gpu_per_worker_and_per_teacher_server(overrides, expected):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+scale=cpu", *overrides])
    assert config.ray_kwargs.ray_init.num_gpus == expected


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_servers_apart_from_the_trainer_are_set_up_under_separate_async_alone(mode):
    sizes = ["data.train_batch_size=24", "actor_rollout_ref.actor.ppo_mini_batch_size=8"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        mode_key = f"trainer.v1.trainer_mode=verl_ext.{mode}"
        config = compose("ppo_trainer", overrides=["+scale=cpu", mode_key, *sizes])
    rollout, apart = config.actor_rollout_ref.rollout, mode == "separate_async"
    assert (rollout.nnodes, rollout.checkpoint_engine.backend) == (
        (1, "gloo") if apart else (0, "naive")
    )
    # What verl asserts before it starts.
    assert config.trainer.v1.separate_async.parameter_sync_step == 3


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
