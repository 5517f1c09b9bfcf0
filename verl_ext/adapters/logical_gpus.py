"""What ``+scale=cpu`` sizes by the run: its logical GPUs, one for each worker of any kind."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

LOGICAL_GPUS, SEPARATE, UPDATES = (
    f"verl_ext_{name}" for name in ("logical_gpus", "separate", "updates_a_step")
)


def register_resolvers() -> None:
    """Makes resolvers of the functions below.

    ``${verl_ext_logical_gpus:}``: the number of :func:`logical_gpus`.
    ``${verl_ext_separate:A,B}``: A where the servers are apart from the trainer, else B.
    ``${verl_ext_updates_a_step:}``: mini-batches in a batch.
    """
    OmegaConf.register_new_resolver(LOGICAL_GPUS, _of_run, replace=True)
    OmegaConf.register_new_resolver(SEPARATE, _where_separate, replace=True)
    OmegaConf.register_new_resolver(UPDATES, _updates, replace=True)


def separate(config: DictConfig) -> bool:
    """Whether the policy's servers have devices of their own."""
    return str(config.trainer.v1.trainer_mode).endswith("separate_async")


def logical_gpus(config: DictConfig) -> int:
    """Workers of the trainer, of servers apart from it, and of teacher servers."""
    workers = config.trainer.n_gpus_per_node * config.trainer.nnodes
    servers = config.get("distillation")
    if servers is not None and servers.enabled:
        workers += servers.n_gpus_per_node * servers.nnodes
    if separate(config):
        rollout = config.actor_rollout_ref.rollout
        workers += rollout.n_gpus_per_node * rollout.nnodes
    return int(workers)


def _of_run(*_: str, _root_: Any) -> int:
    return logical_gpus(_root_)


def _where_separate(there: Any, elsewhere: Any, *, _root_: Any) -> Any:
    return there if separate(_root_) else elsewhere


def _updates(*_: str, _root_: Any) -> int:
    mini_batch = _root_.actor_rollout_ref.actor.ppo_mini_batch_size
    return int(max(1, _root_.data.train_batch_size // mini_batch))
