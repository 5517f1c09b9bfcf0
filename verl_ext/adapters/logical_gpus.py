"""How many logical GPUs a run needs where there are none: one for each worker, of any kind."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

RESOLVER = "verl_ext_logical_gpus"


def register_resolver() -> None:
    """Makes ``${verl_ext_logical_gpus:}`` the number of :func:`logical_gpus`."""
    OmegaConf.register_new_resolver(RESOLVER, _of_run, replace=True)


def logical_gpus(config: DictConfig) -> int:
    """Workers of the trainer and, where the run has teacher servers, of their pool."""
    workers = config.trainer.n_gpus_per_node * config.trainer.nnodes
    servers = config.get("distillation")
    if servers is not None and servers.enabled:
        workers += servers.n_gpus_per_node * servers.nnodes
    return int(workers)


def _of_run(*_: str, _root_: Any) -> int:
    return logical_gpus(_root_)
