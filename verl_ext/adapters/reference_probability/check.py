"""Refuses a reference-probability reward that could not be given, or settings without effect."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.adapters.group_rewards import SECTION, refuse_scores_after_sampling
from verl_ext.adapters.masks import MaskChain
from verl_ext.adapters.reference_probability.settings import (
    KEY,
    ReferenceProbability,
    reference_probability,
)
from verl_ext.adapters.teacher.settings import rewarded_estimator
from verl_ext.catalog import ADVANTAGES, REWARDS

SERVERS = ("vllm", "sglang")  # those whose answers carry a prompt's log-probs


def check(config: DictConfig, settings: Mapping[str, Any]) -> None:
    """Refuses what would fail or have no effect.

    Args:
        config: verl's whole configuration.
        settings: its subtree ``algorithm.verl_ext``.

    Raises:
        SettingsError: names the key, the nearest valid name and the line to type.
    """
    refuse_unknown(SECTION, settings.get("group_reward") or {}, list(REWARDS))
    wanted = reference_probability(config)
    if wanted is None:
        return
    wanted.rule()
    weights = [wanted.weights_of(source) for source in ("default", *wanted.weights)]
    if not any(one.probability for one in weights):
        raise SettingsError(
            f"{KEY}.weights gives the probability no weight anywhere, so the section has no "
            f"effect. Remove it: '~{KEY}'"
        )
    _check_estimator(config)
    _check_servers(config, wanted)
    _check_other_rewards(config, wanted)
    _check_tools(config, wanted)


def prepare(config: DictConfig) -> None:
    """Writes down the tags: whether the run is on the toy shows while its paths are unresolved."""
    wanted = reference_probability(config)
    if wanted is not None:
        section = config.algorithm.verl_ext.group_reward.reference_probability
        section.tags = dict(wanted.tags)


def _check_estimator(config: DictConfig) -> None:
    name = rewarded_estimator(config)
    if name in ADVANTAGES and ADVANTAGES[name].binary_outcomes:
        raise SettingsError(
            f"'{name}' needs outcomes of 0 or 1, and {KEY} gives probabilities. "
            "Add: algorithm.adv_estimator=grpo"
        )


def _check_servers(config: DictConfig, wanted: ReferenceProbability) -> None:
    name = config.actor_rollout_ref.rollout.name
    if wanted.mode == "rollout" and name not in SERVERS:
        raise SettingsError(
            f"{KEY}.mode=rollout asks the policy's servers, and actor_rollout_ref.rollout.name="
            f"{name} does not tell a prompt's log-probs. Add: {KEY}.mode=trainer"
        )


def _check_other_rewards(config: DictConfig, wanted: ReferenceProbability) -> None:
    refuse_scores_after_sampling(config, KEY)
    if wanted.mode != "trainer":
        return
    ours = config.algorithm.get("verl_ext") or {}
    filters = {
        "algorithm.filter_groups.enable": (config.algorithm.get("filter_groups") or {}).get(
            "enable"
        ),
        "algorithm.verl_ext.masks.std_filter.mode=resample": MaskChain(ours.get("masks")).resampler,
    }
    for name, there in filters.items():
        if there:
            raise SettingsError(
                f"{name} needs rewards while responses are sampled, and {KEY}.mode=trainer gives "
                f"them afterwards. Add: {KEY}.mode=rollout"
            )


def _check_tools(config: DictConfig, wanted: ReferenceProbability) -> None:
    turns = config.actor_rollout_ref.rollout.get("multi_turn") or {}
    for name in ("tool_config_path", "function_tool_path"):
        if wanted.debiases and turns.get(name):
            raise SettingsError(
                f"{KEY}.debias={wanted.debias} scores each prompt as the chat template makes it of "
                f"the data set's chat alone, and actor_rollout_ref.rollout.multi_turn.{name} adds "
                f"tools to it. Add: {KEY}.debias=none"
            )
