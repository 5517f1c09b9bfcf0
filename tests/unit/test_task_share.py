import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.metrics.task_share import advantage_share

# Two rows of task a (2 and 3 sampled tokens), one of task b (1 sampled token, a hole before it).
ADVANTAGES = torch.tensor([[1.0, -1.0, 9.0], [0.5, 0.5, 0.5], [7.0, -2.5, 9.0]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 0]])


def test_a_share_is_that_of_the_summed_absolute_advantage_over_sampled_tokens():
    # a: 1 + 1 + 3 · .5 = 3.5; b: 2.5; both: 6.
    assert advantage_share(ADVANTAGES, MASK, "aab") == {"a": 3.5 / 6, "b": 2.5 / 6}


def test_a_long_response_counts_with_each_of_its_tokens():
    shares = advantage_share(torch.ones(2, 4), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]), "ab")
    assert shares == {"a": 0.75, "b": 0.25}


def test_opposite_advantages_add_up_instead_of_cancelling():
    shares = advantage_share(torch.tensor([[1.0], [-1.0], [2.0]]), torch.ones(3, 1), "aab")
    assert shares == {"a": 0.5, "b": 0.5}


def test_tasks_come_in_order_of_appearance_wherever_their_rows_stand():
    shares = advantage_share(ADVANTAGES[[2, 0, 1]], MASK[[2, 0, 1]], ["b", "a", "a"])
    assert list(shares) == ["b", "a"]
    assert shares == {"a": 3.5 / 6, "b": 2.5 / 6}


@pytest.mark.parametrize(
    "labels",
    [
        [7, 7, 8],
        np.array(["x", "x", "y"], dtype=object),
        np.array([7, 7, 8]),
        torch.tensor([7, 7, 8]),
        [("x", 1), ("x", 1), None],
    ],
)
def test_labels_are_any_hashables(labels):
    shares = advantage_share(ADVANTAGES, MASK, labels)
    assert list(shares.values()) == [3.5 / 6, 2.5 / 6]
    first = labels.tolist()[0] if hasattr(labels, "tolist") else labels[0]
    assert next(iter(shares)) == first


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_mask_is_bool_int_or_float(dtype):
    expected = {"a": 3.5 / 6, "b": 2.5 / 6}
    assert advantage_share(ADVANTAGES, MASK.to(dtype), "aab") == expected


def test_what_is_masked_may_be_nan():
    advantages = ADVANTAGES.masked_fill(MASK == 0, math.nan)
    assert advantage_share(advantages, MASK, "aab") == {"a": 3.5 / 6, "b": 2.5 / 6}


def test_a_batch_without_advantages_gives_every_task_zero():
    assert advantage_share(torch.zeros(3, 2), torch.ones(3, 2), "aba") == {"a": 0, "b": 0}
    assert advantage_share(ADVANTAGES, torch.zeros(3, 3), "aab") == {"a": 0, "b": 0}


def test_a_task_without_sampled_tokens_has_share_zero():
    mask = MASK * torch.tensor([[1], [1], [0]])
    assert advantage_share(ADVANTAGES, mask, "aab") == {"a": 1, "b": 0}


def test_no_rows_have_no_tasks():
    assert advantage_share(torch.zeros(0, 3), torch.zeros(0, 3), []) == {}


def test_sums_are_in_float64():
    # Float32 has no number between 2^24 and 2^24 + 2, bfloat16 none between 1000 and 1004.
    shares = advantage_share(torch.tensor([[2.0**24], [1.0]]), torch.ones(2, 1), "ab")
    assert shares == {"a": 2**24 / (2**24 + 1), "b": 1 / (2**24 + 1)}
    long_and_short = torch.tensor([[1] * 1001, [1] + [0] * 1000])
    few = advantage_share(torch.ones(2, 1001, dtype=torch.bfloat16), long_and_short, "ab")
    assert few == {"a": 1001 / 1002, "b": 1 / 1002}


def test_inputs_are_left_alone_and_no_graph_is_kept():
    advantages = ADVANTAGES.clone().requires_grad_()
    before = advantages.detach().clone()
    shares = advantage_share(advantages, MASK, "aab")
    assert all(type(share) is float for share in shares.values())
    assert torch.equal(advantages.detach(), before)


ROWS = st.tuples(st.sampled_from("abc"), st.floats(-100, 100), st.integers(0, 4))


@given(st.lists(ROWS, min_size=1, max_size=12), st.sampled_from([0.25, 8.0, -2.0]))
def test_shares_sum_to_one_and_know_no_unit(rows, factor):
    advantages = torch.tensor([[value] * 4 for _, value, _ in rows], dtype=torch.float64)
    mask = torch.tensor([[place < length for place in range(4)] for _, _, length in rows])
    tasks = [task for task, _, _ in rows]
    shares = advantage_share(advantages, mask, tasks)
    weight = sum(abs(value) * length for _, value, length in rows)
    if weight > 1e-300:
        assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-12)
        for task in set(tasks):
            own = sum(abs(value) * length for name, value, length in rows if name == task)
            assert shares[task] == pytest.approx(own / weight, abs=1e-12)
        assert advantage_share(advantages * factor, mask, tasks) == shares  # powers of two
    elif weight == 0:
        assert set(shares.values()) == {0}


# ---- refused


def test_shapes_that_would_be_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"advantages \(3, 3\), response_mask \(3, 1\)"):
        advantage_share(ADVANTAGES, MASK[:, :1], "aab")


def test_any_but_one_label_per_row_is_refused():
    with pytest.raises(ValueError, match="task_ids must have one label per row: 3 rows, 2 labels"):
        advantage_share(ADVANTAGES, MASK, "ab")


def test_a_label_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="task_ids must not be NaN, but is in row 1"):
        advantage_share(ADVANTAGES, MASK, [1.0, math.nan, 1.0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sampled_advantage_that_is_not_finite_is_refused(value):
    advantages = ADVANTAGES.clone()
    advantages[2, 1] = value
    shown = re.escape(f"row 2: {abs(value)}")
    with pytest.raises(ValueError, match=rf"summed \|advantages\| must be finite, got {shown}"):
        advantage_share(advantages, MASK, "aab")
