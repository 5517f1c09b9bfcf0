"""Rows of a batch, and whose they are."""

import torch

from verl_ext.adapters.sessions import sessions

REAL, PADDING = {}, {"is_padding": True}
# Rows in balanced order: a session of two outputs, apart and back to front; one of one; padding.
KEYS = ["a_0_1", "pad9_0_0", "b_2_0", "a_0_0"]
TAGS = [REAL, PADDING, REAL, REAL]
VALUES = torch.tensor([[1.0, 2.0], [9.0, 9.0], [3.0, 4.0], [5.0, 6.0]])


def test_a_session_is_represented_by_its_last_output_and_padding_by_nothing():
    assert sessions(KEYS, TAGS).last.tolist() == [0, 2]


def test_a_sessions_reward_and_label_are_those_of_its_last_output():
    rows = sessions(KEYS, TAGS)
    assert rows.outcomes(VALUES).tolist() == [3, 7]
    assert rows.labels(["a1", "pad", "b", "a0"]) == ["a1", "b"]
    labels = rows.labels(torch.tensor([4, 9, 5, 3]))
    assert labels == [4, 5]
    assert {type(label) for label in labels} == {int}


def test_outputs_lie_side_by_side_in_their_order():
    merged = sessions(KEYS, TAGS).merged(VALUES)
    assert merged.tolist() == [[5, 6, 1, 2], [3, 4, 0, 0]]


def test_splitting_takes_them_apart_again():
    rows = sessions(KEYS, TAGS)
    expected = VALUES.clone()
    expected[1] = 0
    assert torch.equal(rows.split(rows.merged(VALUES)), expected)


def test_a_sessions_number_goes_to_each_of_its_outputs():
    assert sessions(KEYS, TAGS).broadcast(torch.tensor([7.0, 8.0])).tolist() == [7, 0, 8, 7]


def test_ten_outputs_are_ordered_as_numbers_not_as_text():
    keys = [f"u_0_{output}" for output in range(11)]
    assert sessions(keys, [REAL] * 11).last.tolist() == [10]


def test_ids_may_hold_underscores():
    keys = ["my_prompt_0_0", "my_prompt_1_0"]
    assert sessions(keys, [REAL] * 2).last.tolist() == [0, 1]


def test_a_batch_of_padding_alone_has_no_sessions():
    rows = sessions(["pad_0_0"], [PADDING])
    assert rows.last.tolist() == []
    assert rows.merged(torch.ones(1, 2)).shape == (0, 2)
    assert rows.split(torch.ones(0, 2)).tolist() == [[0, 0]]
