"""The reductions that everything else is made of, where they are easy to get wrong."""

import math

import pytest
import torch

from verl_ext import tensor_ops

CPU = torch.device("cpu")


def test_scores_sum_what_was_sampled_and_are_copied_onto_it():
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    rewards = torch.tensor([[1.0, 2.0, 7.0], [math.nan, 1.0, 1.0]])
    scores = tensor_ops.outcome_scores(rewards, mask)
    assert scores.tolist() == [3, 0]
    assert tensor_ops.spread_over_tokens(scores, mask).tolist() == [[3, 3, 0], [0, 0, 0]]


@pytest.mark.parametrize("made", [list, tuple, torch.tensor])
def test_labels_are_numbered_as_they_appear(made):
    index = tensor_ops.label_index("ids", made([7, 3, 7, 9]), 4, CPU)
    assert index.tolist() == [0, 1, 0, 2]
    assert index.dtype == torch.int64


def test_no_labels_have_an_index_without_rows():
    assert tensor_ops.label_index("ids", [], 0, CPU).dtype == torch.int64


def test_labels_that_are_none_are_refused_by_name_and_row():
    with pytest.raises(ValueError, match="ids must have one label per row: 3 rows, 2 labels"):
        tensor_ops.label_index("ids", [1, 2], 3, CPU)
    with pytest.raises(ValueError, match="ids must not be NaN, but is in row 1"):
        tensor_ops.label_index("ids", [1, math.nan], 2, CPU)


def test_sums_and_deviations_are_over_the_rows_of_one_index():
    values, index = torch.tensor([1.0, 5.0, 3.0, -2.0]), torch.tensor([0, 1, 0, 2])
    assert tensor_ops.sums_over(values, index).tolist() == [4, 5, 4, -2]
    deviations, size = tensor_ops.centred(values, index)
    assert deviations.tolist() == [-1, 0, 1, 0]
    assert size.tolist() == [2, 1, 2, 1]


def test_equal_values_deviate_by_exactly_nothing():
    values = torch.full((3,), 0.1, dtype=torch.float64)
    assert not tensor_ops.centred(values, torch.zeros(3, dtype=torch.int64))[0].any()


def test_shapes_that_differ_are_all_named():
    tensor_ops.require_same_shape(a=torch.zeros(2, 1), b=torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"got a \(2, 1\), b \(2,\)"):
        tensor_ops.require_same_shape(a=torch.zeros(2, 1), b=torch.zeros(2))


def test_the_first_eight_rows_that_are_not_finite_are_shown():
    tensor_ops.require_finite("r", torch.zeros(2), "look")
    with pytest.raises(ValueError, match=r"^r must be finite, got row 1: nan: look$"):
        tensor_ops.require_finite("r", torch.tensor([0, math.nan]), "look")
    rows = ", ".join(f"row {row}: inf" for row in range(8))
    for count, more in ((8, ""), (9, " and 1 more"), (10, " and 2 more")):
        with pytest.raises(ValueError, match=f"^r must be finite, got {rows}{more}: look$"):
            tensor_ops.require_finite("r", torch.full((count,), math.inf), "look")


def test_what_is_not_finite_is_replaced_and_marked():
    values, broken = tensor_ops.finite_or(torch.tensor([1.0, math.nan, -math.inf]), 2.0)
    assert values.tolist() == [1, 2, 2]
    assert broken.tolist() == [False, True, True]
