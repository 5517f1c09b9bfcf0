"""``algorithm.verl_ext.test_time``: training on a single question until it is solved."""

from omegaconf import DictConfig

from verl_ext.adapters.errors import SettingsError
from verl_ext.adapters.sections import read
from verl_ext.self_teaching.attempts import Attempts

KEY = "algorithm.verl_ext.test_time"


def attempts(config: DictConfig) -> Attempts | None:
    """A count of the attempts; None where the section is not there.

    Raises:
        SettingsError: names the key, and the nearest valid one.
    """
    return read(KEY, _made, (config.algorithm.get("verl_ext") or {}).get("test_time"))


def check(config: DictConfig) -> None:
    """Refuses trainers under which nobody can say which attempt was the first.

    Raises:
        SettingsError: names the key and the line to type.
    """
    if attempts(config) is None:
        return
    mode = str(config.trainer.v1.trainer_mode)
    if mode != "verl_ext.sync":
        raise SettingsError(
            f"{KEY} counts attempts one step after the other, and under {mode} those of several "
            "steps are under way at once. Add: trainer.v1.trainer_mode=verl_ext.sync"
        )
    if (config.algorithm.get("filter_groups") or {}).get("enable"):
        raise SettingsError(
            f"{KEY}: algorithm.filter_groups drops groups without a success, which are nearly all "
            "attempts at a hard question. Add: algorithm.filter_groups.enable=false"
        )


def _made(success_threshold: float = 0.5) -> Attempts:
    return Attempts(success_threshold)
