"""What the rewards of ``algorithm.verl_ext.group_reward`` have in common."""

from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters.errors import SettingsError

SECTION = "algorithm.verl_ext.group_reward"


def section(config: DictConfig, name: str) -> Any:
    """A reward's section of verl's whole configuration; None without one."""
    ours = config.algorithm.get("verl_ext") or {}
    return (ours.get("group_reward") or {}).get(name)


def refuse_scores_after_sampling(config: DictConfig, key: str) -> None:
    """Refuses a reward model that would write over the reward of the section ``key``.

    Raises:
        SettingsError: names the line to type.
    """
    model = config.reward.reward_model
    if model.enable and not model.enable_resource_pool:
        raise SettingsError(
            "reward.reward_model shares the policy's devices, so verl scores the whole batch "
            f"after sampling, over what {key} has given. "
            "Add: reward.reward_model.enable_resource_pool=true"
        )
