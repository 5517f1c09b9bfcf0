"""What the driver refuses of an estimator: one that compares responses, without any to compare."""

import statistics

import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf

from verl_ext.adapters import driver_check, estimator_check
from verl_ext.adapters.errors import SettingsError
from verl_ext.catalog import ADVANTAGES, Plugin

MIX = "algorithm.verl_ext.advantage.task_estimator"
CPU = ("+scale=cpu", "actor_rollout_ref.rollout.n=1")
OURS = ("algorithm.adv_estimator=verl_ext.task_norm", "trainer.v1.trainer_mode=verl_ext.sync")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (OURS, r"algorithm\.adv_estimator=verl_ext\.task_norm"),
        (("algorithm.adv_estimator=verl_ext.rank",), r"algorithm\.adv_estimator=verl_ext\.rank"),
        (("+paper=task_norm",), r"algorithm\.adv_estimator=verl_ext\.task_norm"),
        (("+paper=opd", f"{MIX}=verl_ext.task_norm"), rf"{MIX}=verl_ext\.task_norm"),
        (("+paper=sdpo_rich_feedback", f"{MIX}=verl_ext.rank"), rf"{MIX}=verl_ext\.rank"),
    ],
)
def test_an_estimator_of_groups_is_refused_where_each_prompt_has_one_response(
    verl_config, overrides, key
):
    with pytest.raises(SettingsError, match=rf"^{key} .*one of each.* Add: .*rollout\.n=8"):
        driver_check.check(verl_config(*CPU, *overrides))


def test_verls_default_of_one_response_a_prompt_is_refused_too(verl_config):
    """The catalog's own line, on verl's defaults."""
    with pytest.raises(SettingsError, match=r"Add: actor_rollout_ref\.rollout\.n=8"):
        driver_check.check(verl_config(*OURS, "actor_rollout_ref.rollout.name=vllm"))


@pytest.mark.parametrize(
    "overrides",
    [
        (*OURS, "+algorithm.verl_ext.advantage.singleton=paper"),
        (*OURS, "actor_rollout_ref.rollout.n=2"),
        ("algorithm.adv_estimator=verl_ext.w_reinforce",),
        ("algorithm.adv_estimator=grpo",),  # verl's own is verl's to judge
        ("+paper=opd",),
        ("+paper=opd", f"{MIX}=verl_ext.w_reinforce"),
        ("+paper=opd", f"{MIX}=grpo"),
    ],
)
def test_what_learns_from_one_response_a_prompt_passes(verl_config, overrides):
    driver_check.check(verl_config(*CPU, *overrides))


@pytest.mark.parametrize(("baseline", "refused"), [(statistics.fmean, True), (min, False)])
def test_an_estimator_of_somebody_else_is_judged_by_what_it_does(monkeypatch, baseline, refused):
    """Without a minimum to the lone response, whose advantage is then its reward."""

    def theirs(rewards, response_mask, group_ids):
        told = rewards.tolist()
        groups = [
            [r for r, g in zip(told, group_ids, strict=True) if g == own] for own in group_ids
        ]
        base = [baseline(group) if refused or len(group) > 1 else 0 for group in groups]
        advantages = torch.tensor([r - b for r, b in zip(told, base, strict=True)])
        return advantages, advantages

    plugin = Plugin(theirs, "Theirs", "", "", "", needs=("group_ids",))
    monkeypatch.setitem(ADVANTAGES, "theirs", plugin)
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"n": 1}}})
    if refused:
        with pytest.raises(SettingsError, match="theirs compares the responses to a prompt"):
            estimator_check.check_estimator(config, "theirs", {})
    else:
        estimator_check.check_estimator(config, "theirs", {})


def test_a_toy_that_rewards_by_degrees_is_refused_where_outcomes_are_asked_for(verl_config):
    """Its estimator would stop the run after the first rollouts."""
    mixed = ("+paper=[w_reinforce,task_balanced]", "+scale=cpu")
    with pytest.raises(SettingsError, match=r"by degrees\. .* algorithm\.verl_ext\.toy="):
        driver_check.check(verl_config(*mixed))
    driver_check.check(verl_config(*mixed, "algorithm.verl_ext.toy=w_reinforce"))
