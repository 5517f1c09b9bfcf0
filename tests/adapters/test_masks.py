"""Masks in order, and the rows an update is made of."""

import torch

from verl_ext.adapters import masks


def test_masks_run_in_the_order_written_each_on_what_is_left():
    seen = []

    def first(advantages, response_mask):
        seen.append(response_mask.clone())
        return torch.tensor([[True, False], [True, True]])

    def second(advantages, response_mask):
        seen.append(response_mask.clone())
        return torch.tensor([[True, True], [False, True]])

    keep, metrics = masks.apply(
        {"first": first, "second": second}, torch.ones(2, 2), torch.ones(2, 2)
    )
    assert keep.tolist() == [[True, False], [False, True]]
    assert [m.sum().item() for m in seen] == [4, 3]
    assert metrics == {"verl_ext/first/kept_share": 3 / 4, "verl_ext/second/kept_share": 2 / 3}


def test_a_mask_cannot_bring_padding_back():
    keep, _ = masks.apply(
        {"all": lambda a, m: torch.ones(1, 2, dtype=torch.bool)},
        torch.ones(1, 2),
        torch.tensor([[1, 0]]),
    )
    assert keep.tolist() == [[True, False]]


def test_built_masks_are_those_of_the_catalog_in_configuration_order():
    assert list(masks.build({"zero_advantage": {}})) == ["zero_advantage"]
    assert masks.build(None) == {}


def test_every_row_that_teaches_is_trained_on_and_the_cheapest_others_fill_up():
    keep = torch.tensor([[1], [0], [1], [0], [1], [0]], dtype=torch.bool)
    assert masks.rows_to_train(keep, [9, 8, 9, 2, 9, 5], multiple=4) == [0, 2, 3, 4]


def test_no_mini_batch_can_be_without_a_row_that_teaches():
    """Fewer fillers than rows of a mini-batch: whatever the order, each has one that teaches."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        keep = torch.rand(24, 1, generator=generator) < 0.3
        if not keep.any():
            continue
        rows = masks.rows_to_train(keep, [1] * 24, multiple=8)
        fillers = [row for row in rows if not keep[row].any()]
        assert len(rows) % 8 == 0
        assert len(fillers) < 8
        assert set(torch.nonzero(keep.any(-1)).flatten().tolist()) <= set(rows)


def test_a_batch_that_teaches_throughout_is_kept_whole():
    assert masks.rows_to_train(torch.ones(4, 2).bool(), [1] * 4, multiple=2) == [0, 1, 2, 3]
