"""The toy world of ``task=toy``: named in the configuration, built in the driver."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.adapters.errors import SettingsError, refuse_unknown

RESOLVER = "verl_ext_toy"
DEFAULT_VARIANT = "w_reinforce"
SCALES = "reward.custom_reward_function.reward_kwargs.scales"


def register_resolver() -> None:
    """Makes ``${verl_ext_toy:model}`` (or ``train``, ``val``) the path in the user's cache."""
    OmegaConf.register_new_resolver(RESOLVER, _path, replace=True)


def _path(part: str, *, _root_: Any) -> str:
    from verl_ext.toy import world

    return str(getattr(world.world_at(world.path_of(variant(_root_))), part))


def variant(config: DictConfig) -> str:
    """The variant of the toy world this run trains on."""
    return str(OmegaConf.select(config, "algorithm.verl_ext.toy") or DEFAULT_VARIANT)


def in_use(config: DictConfig) -> bool:
    """Whether the run's data or model is the toy world's."""
    nodes = ((config.data, "train_files"), (config.actor_rollout_ref.model, "path"))
    raw: list[Any] = [OmegaConf.to_container(node, resolve=False) for node, _ in nodes]
    values = [container[key] for container, (_, key) in zip(raw, nodes, strict=True)]
    return any(f"${{{RESOLVER}:" in str(value) for value in values)


def check(config: DictConfig) -> None:
    """Refuses a variant that does not exist, and scales of rewards that it does not give.

    Raises:
        SettingsError: names the nearest variant or data source.
    """
    from verl_ext.toy import reward, world

    try:
        recipe = world.recipe_of(variant(config))
    except ValueError as error:
        raise SettingsError(f"algorithm.verl_ext.toy: {error}") from error
    scales = OmegaConf.select(config, SCALES) or {}
    try:
        reward.check_scales(scales)
    except ValueError as error:
        raise SettingsError(f"{SCALES}: {error}") from error
    refuse_unknown(SCALES, scales, [source for source, _ in recipe.train])


def provide(config: DictConfig) -> None:
    """Builds the toy world unless the cache has it."""
    if in_use(config):
        from verl_ext.toy import world

        world.ensure(variant(config), cache_dir=None, progress=True)
