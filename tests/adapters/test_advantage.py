"""The bridge from a pure function to verl's registry."""

import numpy as np
import pytest
import torch
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf
from verl import DataProto
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.ray_trainer import compute_advantage

from verl_ext.adapters.advantage import as_verl_estimator, onto_sampled_tokens


def batch(rewards, mask):
    return DataProto.from_dict(
        tensors={
            "token_level_rewards": torch.tensor(rewards),
            "response_mask": torch.tensor(mask),
        },
        non_tensors={"uid": np.array(["a"] * len(rewards), dtype=object)},
    )


def test_verl_reaches_our_estimator_with_the_configured_weights():
    config = OmegaConf.create({"verl_ext": {"advantage": {"positive_weight": 0.25}}})
    data = batch([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[1, 1, 0], [1, 1, 1]])
    data = compute_advantage(data, adv_estimator="verl_ext.w_reinforce", config=config)
    expected = torch.tensor([[0.25, 0.25, 0.0], [-1.0, -1.0, -1.0]])
    assert torch.equal(data.batch["advantages"], expected)
    assert torch.equal(data.batch["returns"], expected)


def test_an_unknown_argument_is_refused_by_the_function_itself():
    config = OmegaConf.create({"verl_ext": {"advantage": {"lam": 0.25}}})
    with pytest.raises(TypeError, match="lam"):
        compute_advantage(
            batch([[1.0]], [[1]]), adv_estimator="verl_ext.w_reinforce", config=config
        )


def test_without_our_subtree_the_defaults_hold():
    estimator = ADV_ESTIMATOR_REGISTRY["verl_ext.w_reinforce"]
    advantages, _ = estimator(
        torch.tensor([[1.0]]), torch.tensor([[1]]), config=OmegaConf.create({}), index=["a"]
    )
    assert advantages.tolist() == [[pytest.approx(0.1)]]


def test_group_ids_arrive_where_they_are_wanted():
    def wants_groups(rewards, mask, group_ids):
        return group_ids, rewards

    groups, _ = as_verl_estimator(wants_groups)(
        torch.ones(1, 1), torch.ones(1, 1), index=np.array(["g"])
    )
    assert groups.tolist() == ["g"]


def test_a_score_on_a_masked_token_moves_to_the_last_sampled_one():
    """A multi-turn response cut inside a tool's answer: sampled, tool, tool (with the score)."""
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    mask = torch.tensor([[1, 0, 0], [1, 1, 0]])
    moved = onto_sampled_tokens(rewards, mask)
    assert moved.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert rewards.tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_a_row_without_sampled_tokens_is_left_alone():
    rewards = torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    mask = torch.tensor([[0, 0], [1, 1]])
    assert onto_sampled_tokens(rewards, mask)[1].tolist() == [0.0, 1.0]
    assert onto_sampled_tokens(rewards, mask)[0].tolist() == [0.0, 0.0]


def test_rewards_on_sampled_tokens_are_not_copied():
    rewards = torch.tensor([[0.0, 1.0]])
    assert onto_sampled_tokens(rewards, torch.tensor([[1, 1]])) is rewards
