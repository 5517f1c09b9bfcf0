"""Our functions against the authors' loop, and what verl's own loss makes of the result."""

import importlib.util
from pathlib import Path

import pytest
import torch

from verl_ext.advantage_fns.w_reinforce import w_reinforce
from verl_ext.masks.zero_advantage import keep_mask

_spec = importlib.util.spec_from_file_location(
    "reference_w_reinforce", Path(__file__).with_name("w_reinforce.py")
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

MODES = {
    "positive": {"positive_weight": 1.0, "negative_weight": 0.0},
    "negative": {"positive_weight": 0.0, "negative_weight": 1.0},
    "weighted": {"positive_weight": 0.1, "negative_weight": 1.0},
}
RATIOS = [0.5, 0.8, 1.0, 1.2, 4.0]


def random_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (12,), generator=generator)
    rewards = torch.randint(0, 2, (12,), generator=generator)
    rewards[:2] = torch.tensor([0, 1])  # each mode has something to train on
    mask = (torch.arange(8) < lengths.unsqueeze(-1)).long()
    token_level_rewards = torch.zeros(12, 8, dtype=torch.float64)
    token_level_rewards[torch.arange(12), lengths - 1] = rewards.double()
    ratios = torch.rand(12, 8, generator=generator, dtype=torch.float64) * 2
    return rewards.tolist(), lengths.tolist(), token_level_rewards, mask, ratios


def authors(rewards, lengths, mode, **settings):
    weight = MODES[mode]["positive_weight"]
    return reference.authors_advantages(
        rewards, lengths, mode=mode, positive_weight=weight, **settings
    )


def test_the_retelling_gives_the_figures_of_the_official_function():
    # Lengths 3, 2, 4; outcomes 1, 0, 1.
    batch = ([1, 0, 1], [3, 2, 4])
    assert authors(*batch, "positive") == {0: [1.0] * 3, 2: [1.0] * 4}
    assert authors(*batch, "negative") == {1: [-1.0] * 2}
    assert authors(*batch, "weighted") == {0: [0.1] * 3, 1: [-1.0] * 2, 2: [0.1] * 4}
    discounted = authors(*batch, "weighted", gamma=0.9)
    assert discounted[0] == pytest.approx([0.081, 0.09, 0.1])
    assert discounted[2] == pytest.approx([0.0729, 0.081, 0.09, 0.1])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", MODES)
def test_advantages_are_the_authors_on_every_row_they_train_on(mode, seed):
    rewards, lengths, token_level_rewards, mask, _ = random_batch(seed)
    advantages, _ = w_reinforce(token_level_rewards, mask, **MODES[mode])
    trained = authors(rewards, lengths, mode)
    for row, length in enumerate(lengths):
        theirs = trained.get(row, [0.0] * length)
        assert advantages[row, :length].tolist() == theirs
        assert not advantages[row, length:].any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", MODES)
def test_mask_and_advantages_together_give_the_authors_loss(mode, seed):
    rewards, lengths, token_level_rewards, mask, ratios = random_batch(seed)
    advantages, _ = w_reinforce(token_level_rewards, mask, **MODES[mode])
    kept = keep_mask(advantages, mask)
    clipped = ratios.clamp(1 - reference.EPSILON, 1 + reference.EPSILON)
    losses = torch.maximum(-advantages * ratios, -advantages * clipped)
    ours = losses[kept].mean().item()
    assert ours == pytest.approx(
        reference.authors_loss(ratios.tolist(), authors(rewards, lengths, mode)), rel=1e-12
    )


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_mask_keeps_the_rows_the_authors_keep(mode):
    rewards, lengths, token_level_rewards, mask, _ = random_batch(0)
    advantages, _ = w_reinforce(token_level_rewards, mask, **MODES[mode])
    rows = torch.nonzero(keep_mask(advantages, mask).any(-1)).flatten().tolist()
    assert rows == list(authors(rewards, lengths, mode))


def test_deviates_from_the_authors_where_they_discount():
    # Ours has no γ: with their γ = 0.9 the first of three tokens would get 0.081, ours gets 0.1.
    rewards, mask = torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 3)
    advantages, _ = w_reinforce(rewards, mask)
    theirs = authors([1], [3], "weighted", gamma=0.9)[0]
    assert theirs[0] == pytest.approx(0.081)
    assert advantages[0].tolist() == pytest.approx([0.1, 0.1, 0.1])


def test_deviates_from_the_authors_where_the_subset_is_empty():
    # NSR with nothing wrong: their batch is empty and the run crashes; ours keeps no token, and the
    # trainer skips the update.
    assert authors([1, 1], [2, 2], "negative") == {}
    advantages, _ = w_reinforce(torch.eye(2), torch.ones(2, 2), **MODES["negative"])
    assert not keep_mask(advantages, torch.ones(2, 2)).any()


def test_deviates_from_the_authors_default_weight():
    # Their configuration says 1, their paper and README 0.1; ours is 0.1.
    advantages, _ = w_reinforce(torch.ones(1, 1), torch.ones(1, 1))
    theirs = reference.authors_advantages([1], [1], mode="weighted")[0]
    assert (advantages.item(), theirs) == (pytest.approx(0.1), [1.0])


# verl's behaviour that the recipes rely on: its loss, not ours


def verl_loss_and_gradient(ratio, advantage, *, clip_ratio_c):
    """verl's own loss of one token, and its gradient with respect to the log-probability."""
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    config = pytest.importorskip("verl.workers.config").ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio=0.2,
        clip_ratio_low=0.2,
        clip_ratio_high=0.2,
        clip_ratio_c=clip_ratio_c,
    )
    old = torch.zeros(1, 1, dtype=torch.float64)
    new = torch.full_like(old, ratio).log().requires_grad_()
    loss, _ = core_algos.compute_policy_loss_vanilla(
        old, new, torch.full_like(old, advantage), torch.ones_like(old), "token-mean", config
    )
    loss.backward()
    return loss.item(), new.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # A mistake: no gradient once it is 20 % less likely, no bound above.
        (0.5, -1.0, 0.8, 0.0),
        (1.0, -1.0, 1.0, 1.0),
        (1.2, -1.0, 1.2, 1.2),
        (4.0, -1.0, 4.0, 4.0),
        # A success: no gradient once it is 20 % more likely.
        (0.5, 1.0, -0.5, -0.5),
        (0.8, 1.0, -0.8, -0.8),
        (1.0, 1.0, -1.0, -1.0),
        (4.0, 1.0, -1.2, 0.0),
    ],
)
def test_verls_loss_without_dual_clip_is_the_authors(ratio, advantage, loss, gradient):
    ours = verl_loss_and_gradient(ratio, advantage, clip_ratio_c=1000.0)
    assert ours == pytest.approx((loss, gradient))
    assert reference.authors_token_loss(ratio, advantage) == pytest.approx(loss)


@pytest.mark.parametrize(("ratio", "advantage"), [(0.8, -1.0), (1.2, 1.0)])
def test_verls_loss_is_the_authors_on_the_edge_of_the_clip(ratio, advantage):
    # Both branches of the maximum are equal there, so which side's gradient autograd takes is a
    # matter of rounding; the loss is not.
    loss, _ = verl_loss_and_gradient(ratio, advantage, clip_ratio_c=1000.0)
    assert loss == pytest.approx(reference.authors_token_loss(ratio, advantage))


def test_verls_default_dual_clip_would_cap_a_mistake_that_grew_likely():
    # clip_ratio_c = 3: loss 3 instead of 4, and no gradient left to push the mistake down.
    assert verl_loss_and_gradient(4.0, -1.0, clip_ratio_c=3.0) == pytest.approx((3.0, 0.0))
    assert reference.authors_token_loss(4.0, -1.0) == 4.0


def test_verls_dual_clip_leaves_successes_alone():
    capped = verl_loss_and_gradient(4.0, 1.0, clip_ratio_c=3.0)
    assert capped == verl_loss_and_gradient(4.0, 1.0, clip_ratio_c=1000.0)


@pytest.mark.parametrize("mode", MODES)
def test_verls_token_mean_over_kept_tokens_is_the_authors_loss(mode):
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    rewards, lengths, token_level_rewards, mask, ratios = random_batch(3)
    advantages, _ = w_reinforce(token_level_rewards, mask, **MODES[mode])
    clipped = ratios.clamp(1 - reference.EPSILON, 1 + reference.EPSILON)
    losses = torch.maximum(-advantages * ratios, -advantages * clipped)
    kept = keep_mask(advantages, mask).long()
    theirs = reference.authors_loss(ratios.tolist(), authors(rewards, lengths, mode))
    assert core_algos.agg_loss(losses, kept, "token-mean").item() == pytest.approx(theirs)
