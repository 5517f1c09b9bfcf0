"""Advantages by hand: each task divided by its own deviation."""

import math
import statistics
from functools import partial

import numpy as np
import pytest
import torch

from verl_ext.advantage_fns.task_norm import task_norm

# Two prompts of a multiple-choice task, then two of a question-answering one (methods' example).
OUTCOMES = [1, 0, 0, 1, 0.9, 0.7, 0.8, 0.8, 1, 1, 1, 1]
GROUPS = list("aaaabbbbcccc")
TASKS = ["mc"] * 4 + ["qa"] * 8


def advantages_of(outcomes, groups, tasks, **settings_):
    """One advantage per response; each is two tokens long and rewarded on the last."""
    rewards = torch.zeros(len(outcomes), 2, dtype=torch.float64)
    rewards[:, 1] = torch.as_tensor(outcomes, dtype=torch.float64)
    advantages, _ = task_norm(rewards, torch.ones(len(outcomes), 2), groups, tasks, **settings_)
    assert torch.equal(advantages[:, 0], advantages[:, 1])
    return advantages[:, 0]


def assert_close(actual, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)  # a few roundings of float64


def test_each_task_is_divided_by_its_own_deviation():
    # mc: 1, 0, 0, 1 has mean .5 and variance 4·.25/3. qa: mean .9; deviations 0, −.2, −.1, −.1
    # and four times .1, so variance (.04 + .01 + .01 + 4·.01)/7. Group b has mean .8.
    mc = 0.5 / (math.sqrt(1 / 3) + 1e-6)
    qa = 0.1 / (math.sqrt(0.1 / 7) + 1e-6)
    assert (round(mc, 6), round(qa, 6)) == (0.866024, 0.836653)  # as in the methods' example
    expected = [mc, -mc, -mc, mc, qa, -qa, 0, 0, 0, 0, 0, 0]
    assert_close(advantages_of(OUTCOMES, GROUPS, TASKS), expected)


def test_one_task_in_the_batch_is_normalisation_by_the_batch():
    std = statistics.stdev(OUTCOMES)
    expected = [0.5, -0.5, -0.5, 0.5, 0.1, -0.1, 0, 0, 0, 0, 0, 0]
    actual = advantages_of(OUTCOMES, GROUPS, ["one"] * 12)
    assert_close(actual, [value / (std + 1e-6) for value in expected])


def test_a_task_of_one_prompt_is_grpo():
    outcomes = [1.0, 0.0, 0.0, 0.5]
    mean, std = statistics.mean(outcomes), statistics.stdev(outcomes)
    expected = [(outcome - mean) / (std + 1e-6) for outcome in outcomes]
    assert_close(advantages_of(outcomes, "aaaa", "tttt"), expected)


def test_eps_is_added_outside_the_root():
    # 1, 0: mean .5, std √.5.
    expected = 0.5 / (math.sqrt(0.5) + 0.25)
    assert_close(advantages_of([1, 0], "aa", "tt", eps=0.25), [expected, -expected])


def test_rows_of_a_task_need_not_stand_together():
    order = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    mixed = [[values[row] for row in order] for values in (OUTCOMES, GROUPS, TASKS)]
    assert_close(advantages_of(*mixed), advantages_of(OUTCOMES, GROUPS, TASKS)[order])


def test_a_lone_response_gets_zero_and_counts_in_its_tasks_deviation():
    # t: 1, 0, .5 of groups a, a, b: mean .5, variance (.25 + .25 + 0)/2; without b it were .5.
    expected = 0.5 / (0.5 + 1e-6)
    assert_close(advantages_of([1, 0, 0.5], "aab", "ttt"), [expected, -expected, 0])


def test_a_lone_response_as_published_is_left_uncentred():
    expected = 0.5 / (0.5 + 1e-6)
    actual = advantages_of([1, 0, 0.5], "aab", "ttt", singleton="paper")
    assert_close(actual, [expected, -expected, expected])


def test_a_task_of_one_response_as_published_is_divided_by_eps_alone():
    pair = 0.5 / (math.sqrt(0.5) + 1e-6)
    actual = advantages_of([1, 0, 0.5], "aab", "ttu", singleton="paper")
    assert round(pair, 6) == 0.707106
    torch.testing.assert_close(actual[:2], torch.tensor([pair, -pair], dtype=torch.float64))
    assert actual[2].item() == 0.5 / 1e-6
    assert_close(advantages_of([1, 0, 0.5], "aab", "ttu"), [pair, -pair, 0])


@pytest.mark.parametrize("singleton", ["zero", "paper"])
def test_a_task_of_equal_outcomes_gets_exactly_zero(singleton):
    # Three times .1 does not have the mean .1 in binary.
    for value in (0.1, 1 / 3, 0.7, 1e4 + 0.1):
        actual = advantages_of([value] * 6, "aaabbb", "t" * 6, singleton=singleton)
        assert torch.equal(actual, torch.zeros(6, dtype=torch.float64))


def test_a_group_that_spans_tasks_divides_each_row_by_its_own_tasks_deviation():
    # Group mean .5; t: 1, 0 with std √.5; u: one row, no deviation to divide by.
    pair = 0.5 / (math.sqrt(0.5) + 1e-6)
    assert_close(advantages_of([1, 0, 0.5], "aaa", "ttu"), [pair, -pair, 0])
    assert_close(advantages_of([1, 0, 0.8], "aaa", "ttu")[2:], [0])
    published = advantages_of([1, 0, 0.8], "aaa", "ttu", singleton="paper")[2].item()
    assert published == pytest.approx((0.8 - 0.6) / 1e-6)


def test_a_row_without_sampled_tokens_counts_nowhere():
    # As a third member of group a with outcome 0 it would move the mean and the deviation.
    rewards = torch.tensor([[0, 1.0], [0, 0.0], [math.nan, 7.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1], [1, 1], [0, 0]])
    advantages, _ = task_norm(rewards, mask, "aaa", "ttt")
    assert_close(advantages[:2, 0], advantages_of([1, 0], "aa", "tt"))
    assert torch.equal(advantages[2], torch.zeros(2, dtype=torch.float64))


def test_a_group_with_one_sampled_row_is_a_group_of_one():
    rewards, mask = torch.tensor([[1.0], [0.0], [1.0], [0.0]]), torch.tensor([[1], [0], [1], [1]])
    advantages, _ = task_norm(rewards, mask, "aabb", "tttt")
    assert advantages[0] == 0
    assert advantages[2] > 0


@pytest.mark.parametrize("rows", [0, 2])
def test_a_batch_with_nothing_sampled_gets_zeros(rows):
    advantages, returns = task_norm(
        torch.zeros(rows, 3), torch.zeros(rows, 3), "a" * rows, [0] * rows
    )
    assert advantages.shape == (rows, 3)
    assert not advantages.any()
    assert not returns.any()


def test_outcomes_are_sums_over_sampled_tokens_and_holes_get_nothing():
    rewards = torch.tensor([[0.25, 99, 0.75, 99], [0, 0, 0, 0]], dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]])
    advantages, returns = task_norm(rewards, mask, "aa", "tt")
    high = advantages_of([1, 0], "aa", "tt")[0]
    assert torch.equal(advantages, torch.stack([high, -high]).unsqueeze(-1) * mask)
    assert torch.equal(returns, advantages)


def share(task, outcomes, advantages):
    """The part of the summed absolute advantage that falls to a task."""
    rows = torch.tensor([name == task for name in TASKS])
    return (advantages[rows].abs().sum() / advantages.abs().sum()).item()


def test_scaling_one_tasks_rewards_leaves_its_share_where_centring_alone_lets_it_grow():
    # Only ε tells the scales apart: it is 2e-6 of mc's deviation of .577 and 2e-8 of 57.7.
    shares, centred_shares = [], []
    for scale in (1, 10, 100):
        outcomes = torch.tensor(OUTCOMES, dtype=torch.float64)
        outcomes[:4] *= scale
        shares.append(share("mc", outcomes, advantages_of(outcomes, GROUPS, TASKS)))
        by_group = outcomes.reshape(3, 4)
        centred = (by_group - by_group.mean(-1, keepdim=True)).flatten()
        centred_shares.append(share("mc", outcomes, centred))
    assert max(shares) - min(shares) < 1e-6
    # mc's sum is 2·scale, qa's .2.
    assert centred_shares == pytest.approx([2 / 2.2, 20 / 20.2, 200 / 200.2])


@pytest.mark.parametrize("labels", [list, tuple, np.array, partial(np.array, dtype=object)])
def test_labels_may_be_any_hashables_and_come_in_any_sequence(labels):
    expected = advantages_of(OUTCOMES, GROUPS, TASKS)
    assert torch.equal(advantages_of(OUTCOMES, labels(GROUPS), labels(TASKS)), expected)


def test_labels_in_a_tensor_are_compared_by_value():
    # Each element of a tensor is an object of its own, and every group would be a group of one.
    groups, tasks = torch.arange(12) // 4, torch.tensor([0] * 4 + [1] * 8)
    expected = advantages_of(OUTCOMES, GROUPS, TASKS)
    assert torch.equal(advantages_of(OUTCOMES, groups, tasks), expected)
