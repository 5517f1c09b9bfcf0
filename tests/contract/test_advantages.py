"""Every row of the catalog keeps the contract of an estimator, and the contract has teeth."""

import inspect
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext import testing
from verl_ext.advantage_fns.w_reinforce import w_reinforce
from verl_ext.catalog import ADVANTAGES


def of_tokens(function):
    """An estimator that takes one reward a response, as verl calls it: with one a token."""
    if next(iter(inspect.signature(function).parameters)) != "rewards":
        return function

    def estimator(token_level_rewards, response_mask, group_ids):
        outcomes = torch.where(response_mask.bool(), token_level_rewards, 0).sum(-1)
        return function(outcomes, response_mask, group_ids)

    return estimator


# Every estimator with its defaults, and the corners that are papers of their own.
CASES = {
    **{
        name: (of_tokens(plugin.function), plugin.binary_outcomes)
        for name, plugin in ADVANTAGES.items()
    },
    "psr": (partial(w_reinforce, positive_weight=1.0, negative_weight=0.0), True),
    "nsr": (partial(w_reinforce, positive_weight=0.0, negative_weight=1.0), True),
}


@pytest.mark.parametrize("promise", testing.ADVANTAGE_CONTRACT)
@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_every_estimator_keeps_every_promise(case, promise, data):
    function, binary_outcomes = CASES[case]
    batch = data.draw(testing.batches(binary_outcomes=binary_outcomes))
    testing.ADVANTAGE_CONTRACT[promise](function, batch)


def raw(rewards, mask):
    return rewards.sum(-1, keepdim=True) * mask


def _leaks_into_padding(rewards, mask):
    return raw(torch.nan_to_num(rewards), torch.ones_like(mask))


def _depends_on_width(rewards, mask):
    return raw(torch.nan_to_num(rewards), mask) / rewards.shape[-1]


def _depends_on_row_number(rewards, mask):
    return raw(rewards, mask) * torch.arange(len(rewards)).unsqueeze(-1)


def _depends_on_labels(rewards, mask, group_ids):
    return raw(rewards, mask) * torch.tensor([[float(group == "a")] for group in group_ids])


def _writes_into_rewards(rewards, mask):
    return rewards.data.add_(1.0) * mask


def _divides_by_zero(rewards, mask):
    return raw(rewards, mask) / 0.0


def _changes_dtype(rewards, mask):
    return raw(rewards, mask).half()


def _draws(rewards, mask):
    return torch.rand_like(rewards) * mask


BROKEN = {
    "masked_entries_are_zero": _leaks_into_padding,
    "padding_changes_nothing": _depends_on_width,
    "masked_values_are_ignored": raw,
    "rows_may_be_shuffled": _depends_on_row_number,
    "groups_may_be_renamed": _depends_on_labels,
    "inputs_are_left_alone": _writes_into_rewards,
    "no_graph_is_kept": raw,
    "results_are_finite": _divides_by_zero,
    "shape_dtype_and_device_are_kept": _changes_dtype,
    "same_call_gives_same_bits": _draws,
}


@pytest.mark.parametrize("promise", testing.ADVANTAGE_CONTRACT)
def test_every_promise_catches_an_estimator_that_breaks_it(promise):
    batch = testing.Batch(
        torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]),
        {"group_ids": ["a", "a", "b"], "task_ids": ["a", "b", "b"]},
    )
    with pytest.raises(AssertionError):
        testing.ADVANTAGE_CONTRACT[promise](BROKEN[promise], batch)
