"""Any batch: types, precision, what is refused, and what an estimator promises."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext import testing
from verl_ext.advantage_fns.task_norm import task_norm

PAPER = partial(task_norm, singleton="paper")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_of_the_rewards_is_kept(dtype):
    advantages, _ = task_norm(
        torch.tensor([[1.0], [0.0]], dtype=dtype), torch.ones(2, 1), "aa", "tt"
    )
    assert advantages.dtype == dtype


def test_the_statistics_of_a_large_float32_batch_are_those_of_float64():
    rewards = torch.rand(5000, 1, generator=torch.Generator().manual_seed(0))
    arguments = torch.ones(5000, 1), ["a"] * 5000, ["t"] * 5000
    in_float64, _ = task_norm(rewards.double(), *arguments)
    assert torch.equal(task_norm(rewards, *arguments)[0], in_float64.float())


def test_a_large_offset_costs_no_digits_in_float32():
    # 4096 + {0, .5, 1, 1.5} are exact in float32; the mean and the squares need not be.
    rewards = torch.tensor([[0.0], [0.5], [1.0], [1.5]])
    plain, _ = task_norm(rewards, torch.ones(4, 1), "aabb", "tttt")
    offset, _ = task_norm(rewards + 4096, torch.ones(4, 1), "aabb", "tttt")
    assert torch.equal(offset, plain)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_outcome_that_is_not_finite_is_refused_with_its_row(bad):
    rewards = torch.tensor([[0.0, 1.0], [0.0, bad], [0.0, 0.0]])
    with pytest.raises(ValueError, match=rf"outcomes must be finite, got row 1: {bad}.*mask every"):
        task_norm(rewards, torch.ones(3, 2), "aaa", "ttt")


def test_many_bad_rows_are_counted_and_the_first_shown():
    with pytest.raises(ValueError, match=r"row 7: nan and 2 more"):
        task_norm(torch.full((10, 1), math.nan), torch.ones(10, 1), "a" * 10, "t" * 10)


@pytest.mark.parametrize(
    ("name", "labels"), [("group_ids", ("a", "tt")), ("task_ids", ("aa", "ttt"))]
)
def test_labels_of_another_number_than_the_rows_are_refused(name, labels):
    message = f"{name} must have one label per row: 2 rows"
    with pytest.raises(ValueError, match=message):
        task_norm(torch.eye(2), torch.ones(2, 2), *labels)


def test_a_missing_label_that_pandas_made_nan_is_refused():
    with pytest.raises(ValueError, match="task_ids must not be NaN, but is in row 1"):
        task_norm(torch.eye(2), torch.ones(2, 2), "aa", ["t", math.nan])


def test_shapes_that_torch_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"response_mask \(2, 1\)"):
        task_norm(torch.eye(2), torch.ones(2, 1), "aa", "tt")


@pytest.mark.parametrize("eps", [0.0, -1e-6, math.nan, math.inf])
def test_an_eps_that_is_not_positive_and_finite_is_refused(eps):
    with pytest.raises(ValueError, match="eps must be finite and > 0"):
        task_norm(torch.eye(2), torch.ones(2, 2), "aa", "tt", eps=eps)


def test_an_unknown_singleton_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="singleton must be one of zero, paper, got 'official'"):
        task_norm(torch.eye(2), torch.ones(2, 2), "aa", "tt", singleton="official")


@pytest.mark.parametrize("promise", testing.ADVANTAGE_CONTRACT)
@pytest.mark.parametrize("estimator", [task_norm, PAPER], ids=["zero", "paper"])
@settings(deadline=None, max_examples=30)
@given(batch=testing.batches())
def test_the_contract_of_an_estimator_is_kept(estimator, promise, batch):
    testing.ADVANTAGE_CONTRACT[promise](estimator, batch)


@settings(deadline=None, max_examples=50)
@given(batch=testing.batches(), order=st.randoms())
def test_any_order_of_the_rows_gives_the_same_advantages(batch, order):
    rows = list(range(len(batch.response_mask)))
    order.shuffle(rows)
    shuffled = testing.advantages_of(task_norm, batch.rows(rows))
    torch.testing.assert_close(shuffled, testing.advantages_of(task_norm, batch)[rows])


@settings(deadline=None, max_examples=50)
@given(batch=testing.batches(), label=st.sampled_from(["a", "b", "padding"]))
def test_padding_rows_of_any_label_change_nothing(batch, label):
    # What verl appends reaches the function as rows without sampled tokens.
    rows, length = batch.response_mask.shape
    longer = testing.Batch(
        torch.cat([batch.token_level_rewards, batch.token_level_rewards.new_ones(2, length)]),
        torch.cat([batch.response_mask, batch.response_mask.new_zeros(2, length)]),
        {name: [*values, label, label] for name, values in batch.fields.items()},
    )
    after = testing.advantages_of(task_norm, longer)
    assert torch.equal(after[:rows], testing.advantages_of(task_norm, batch))
    assert not after[rows:].any()


@settings(deadline=None, max_examples=50)
@given(batch=testing.batches())
def test_groups_sum_to_zero_where_their_rows_share_a_task(batch):
    one_task = {**batch.fields, "task_ids": ["t"] * len(batch.response_mask)}
    rewards = batch.token_level_rewards.double()
    batch = testing.Batch(rewards, batch.response_mask, one_task)
    advantages = testing.advantages_of(task_norm, batch)
    outcomes = advantages.abs().amax(-1) * advantages.sum(-1).sign()
    for group in set(batch.fields["group_ids"]):
        members = torch.tensor([label == group for label in batch.fields["group_ids"]])
        assert outcomes[members].sum().item() == pytest.approx(0, abs=1e-9)
