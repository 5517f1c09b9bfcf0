"""The promises of an advantage estimator, and random batches to hold it to them.

For our own catalog and for yours::

    from hypothesis import given
    from verl_ext.testing import ADVANTAGE_CONTRACT, batches

    @given(batch=batches(binary_outcomes=True))
    def test_my_estimator_keeps_the_contract(batch):
        for promise in ADVANTAGE_CONTRACT.values():
            promise(my_estimator, batch)

hypothesis is imported where it is used: ``pip install 'verl-ext[dev]'``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

Estimator = Callable[..., Any]


@dataclass(frozen=True)
class Batch:
    """A batch as an estimator sees it.

    Attributes:
        token_level_rewards: (batch, time); the outcome stands on the last sampled token.
        response_mask: (batch, time), bool, int64 or float32; ragged, with holes, rows may be empty.
        fields: what an estimator may take by keyword: ``group_ids``, ``task_ids``.
    """

    token_level_rewards: Tensor
    response_mask: Tensor
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def rows(self, order: Sequence[int]) -> Batch:
        """The batch with its rows in another order."""
        index = torch.tensor(order)
        return Batch(
            self.token_level_rewards[index],
            self.response_mask[index],
            {name: [values[row] for row in order] for name, values in self.fields.items()},
        )


def batches(*, binary_outcomes: bool = False, max_rows: int = 6) -> SearchStrategy[Batch]:
    """Random :class:`Batch` objects: degenerate groups, empty rows, holes, three kinds of mask.

    Args:
        binary_outcomes: outcomes of 0 and 1 alone; otherwise also −1, fractions and large numbers.
        max_rows: at most so many responses, and as many tokens a response.
    """
    from hypothesis import strategies as st

    outcome = st.sampled_from([0.0, 1.0] if binary_outcomes else [0.0, 1.0, -1.0, 0.5, 0.1, 1e4])
    size = st.integers(1, max_rows)

    @st.composite
    def batch(draw: DrawFn) -> Batch:
        rows, length = draw(size), draw(size)
        cells = draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
        sampled = torch.tensor(cells).reshape(rows, length)
        dtype = draw(st.sampled_from([torch.float32, torch.float64]))
        rewards = torch.zeros(rows, length, dtype=dtype)
        for row in range(rows):
            positions = torch.nonzero(sampled[row]).flatten().tolist()
            if positions:
                rewards[row, positions[-1]] = draw(outcome)
        label = st.lists(st.sampled_from(["a", "b", "c"]), min_size=rows, max_size=rows)
        mask_dtype = draw(st.sampled_from([torch.bool, torch.int64, torch.float32]))
        fields = {"group_ids": draw(label), "task_ids": draw(label)}
        return Batch(rewards, sampled.to(mask_dtype), fields)

    return batch()


def advantages_of(estimator: Estimator, batch: Batch) -> Tensor:
    """Calls the estimator with those fields of the batch that its signature names."""
    wanted = inspect.signature(estimator).parameters
    fields = {name: values for name, values in batch.fields.items() if name in wanted}
    result = estimator(batch.token_level_rewards, batch.response_mask, **fields)
    advantages: Tensor = result[0] if isinstance(result, tuple) else result
    return advantages


def masked_entries_are_zero(estimator: Estimator, batch: Batch) -> None:
    """Padding and observations get exactly 0."""
    masked = advantages_of(estimator, batch)[~batch.response_mask.bool()]
    assert torch.equal(masked, torch.zeros_like(masked)), f"not 0 where masked: {masked}"


def padding_changes_nothing(estimator: Estimator, batch: Batch) -> None:
    """Two more columns of padding leave the rest as it is, to the bit."""
    length = batch.response_mask.shape[-1]
    wider = replace(
        batch,
        token_level_rewards=torch.nn.functional.pad(batch.token_level_rewards, (0, 2)),
        response_mask=torch.nn.functional.pad(batch.response_mask, (0, 2)),
    )
    after = advantages_of(estimator, wider)
    assert torch.equal(after[:, :length], advantages_of(estimator, batch))
    assert not after[:, length:].any()


def masked_values_are_ignored(estimator: Estimator, batch: Batch) -> None:
    """What stands on masked tokens, even NaN, reaches no advantage."""
    sampled = batch.response_mask.bool()
    rewards = torch.where(sampled, batch.token_level_rewards, torch.nan)
    poisoned = replace(batch, token_level_rewards=rewards)
    assert torch.equal(advantages_of(estimator, poisoned), advantages_of(estimator, batch))


def rows_may_be_shuffled(estimator: Estimator, batch: Batch) -> None:
    """Another order of the rows gives the same advantages in that order."""
    order = list(range(len(batch.token_level_rewards)))
    order = order[::2] + order[1::2][::-1]
    shuffled = advantages_of(estimator, batch.rows(order))
    torch.testing.assert_close(shuffled, advantages_of(estimator, batch)[torch.tensor(order)])


def groups_may_be_renamed(estimator: Estimator, batch: Batch) -> None:
    """Only which labels are equal matters, not what they are."""
    renamed = {name: [(1, value) for value in values] for name, values in batch.fields.items()}
    after = advantages_of(estimator, replace(batch, fields=renamed))
    torch.testing.assert_close(after, advantages_of(estimator, batch))


def inputs_are_left_alone(estimator: Estimator, batch: Batch) -> None:
    """No input is written to."""
    rewards, mask = batch.token_level_rewards.clone(), batch.response_mask.clone()
    fields = {name: list(values) for name, values in batch.fields.items()}
    advantages_of(estimator, batch)
    assert torch.equal(rewards, batch.token_level_rewards), "token_level_rewards were changed"
    assert torch.equal(mask, batch.response_mask), "response_mask was changed"
    assert fields == {name: list(values) for name, values in batch.fields.items()}


def no_graph_is_kept(estimator: Estimator, batch: Batch) -> None:
    """Rewards that require a gradient give advantages that do not."""
    rewards = batch.token_level_rewards.clone().requires_grad_()
    assert not advantages_of(estimator, replace(batch, token_level_rewards=rewards)).requires_grad


def results_are_finite(estimator: Estimator, batch: Batch) -> None:
    """No NaN and no infinity, whatever the group sizes and masks."""
    assert torch.isfinite(advantages_of(estimator, batch)).all()


def shape_dtype_and_device_are_kept(estimator: Estimator, batch: Batch) -> None:
    """The advantages look like the rewards."""
    advantages, rewards = advantages_of(estimator, batch), batch.token_level_rewards
    assert advantages.shape == rewards.shape
    assert advantages.dtype == rewards.dtype
    assert advantages.device == rewards.device


def same_call_gives_same_bits(estimator: Estimator, batch: Batch) -> None:
    """No state and no chance."""
    assert torch.equal(advantages_of(estimator, batch), advantages_of(estimator, batch))


ADVANTAGE_CONTRACT: dict[str, Callable[[Estimator, Batch], None]] = {
    promise.__name__: promise
    for promise in (
        masked_entries_are_zero,
        padding_changes_nothing,
        masked_values_are_ignored,
        rows_may_be_shuffled,
        groups_may_be_renamed,
        inputs_are_left_alone,
        no_graph_is_kept,
        results_are_finite,
        shape_dtype_and_device_are_kept,
        same_call_gives_same_bits,
    )
}
