"""The task of a mixing estimator has its turn alone: under its own name, with its own arguments."""

from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf import DictConfig, open_dict

from verl_ext.adapters.teacher.settings import Mix


@contextmanager
def task_alone(algorithm: DictConfig, mix: Mix | None) -> Iterator[None]:
    """Lets verl compute the advantage of the task's estimator.

    Args:
        algorithm: verl's section, as it was when this is over.
        mix: None where nothing mixes, and nothing is changed.
    """
    if mix is None:
        yield
        return
    mixer, arguments = algorithm.adv_estimator, algorithm.verl_ext.get("advantage") or {}
    with open_dict(algorithm):
        algorithm.adv_estimator = mix.task_estimator or mixer
        algorithm.verl_ext.advantage = dict(mix.task_arguments)
        try:
            yield
        finally:
            algorithm.adv_estimator, algorithm.verl_ext.advantage = mixer, arguments
