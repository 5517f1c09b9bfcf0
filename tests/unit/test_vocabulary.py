"""A shard's part of a vocabulary, in one process: what the others hold is handed in."""

import pytest
import torch
from torch import distributed as dist

from verl_ext.losses.vocabulary import (
    BLOCK,
    VocabShard,
    local_ids,
    merged_top,
    reduced,
    shared,
    summed,
    top_ids,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def in_order(row, top_k):
    """The ids of the K largest, of equal ones the lowest first."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:top_k]


def blocks_of(z):
    whole = z.shape[-1] // BLOCK * BLOCK
    return z[:, :whole].view(len(z), -1, BLOCK).amax(-1)


def drawn(tokens, vocab, dtype, levels):
    """Few levels, so that many logits are equal; of both signs, and −0 among them."""
    draw = torch.Generator().manual_seed(0)
    z = torch.randint(-levels, levels + 1, (tokens, vocab), generator=draw).to(dtype) / 4
    z[0, 3], z[0, 1] = -0.0, 0.0
    return z


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize(("vocab", "levels"), [(7, 2), (10 * BLOCK, 40), (10 * BLOCK + 5, 3)])
def test_the_most_likely_come_in_order_and_of_equals_the_lowest(dtype, top_k, vocab, levels):
    z = drawn(4, vocab, dtype, levels)
    expected = [in_order(row, top_k) for row in z.tolist()]
    assert top_ids(z, None, top_k).tolist() == expected
    if vocab >= BLOCK:
        assert top_ids(z, blocks_of(z), top_k).tolist() == expected


def test_blocks_are_looked_into_only_where_they_leave_enough_out():
    z = torch.zeros(1, 3 * BLOCK)
    wrong = torch.tensor([[0.0, 0.0, 9.0]])  # says that the last block has the largest
    assert top_ids(z, wrong, 1).item() == 2 * BLOCK
    assert top_ids(z, wrong, 2).tolist() == [[0, 1]]  # 3 < 2 · 2 blocks: all are read


def test_two_blocks_are_enough_for_one():
    z = torch.zeros(1, 2 * BLOCK)
    assert top_ids(z, torch.tensor([[0.0, 9.0]]), 1).item() == BLOCK


def test_ids_of_other_shards_are_0_and_marked():
    ids = torch.tensor([[3, 4, 5], [6, 7, 0]])
    local, here = local_ids(ids, 3, VocabShard(None, 4))
    assert here.tolist() == [[False, True, True], [True, False, False]]
    assert local.tolist() == [[0, 0, 1], [2, 0, 0]]
    assert local_ids(ids, 3, None) == (ids, None)


def test_a_shard_starts_at_its_rank_times_its_size(monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda group: {"group": 2}[group])
    VocabShard("group", 6).require_size(3)
    for start in (0, 5, 7):
        with pytest.raises(ValueError, match="must be 6, the rank in the group times the 3 logits"):
            VocabShard("group", start).require_size(3)


def test_the_best_of_all_shards_are_chosen_by_their_own_values(monkeypatch):
    others = {torch.float32: torch.tensor([[5.0, 2.0]]), torch.int64: torch.tensor([[1, 0]])}

    def all_gather(found, own, group):
        found[0].copy_(others[own.dtype])  # the first shard's
        found[1].copy_(own)

    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    values, ids = torch.tensor([[7.0, 5.0]]), torch.tensor([[2, 0]])
    assert merged_top(values, ids, 3, VocabShard(None, 10)).tolist() == [[12, 1, 10]]
    assert merged_top(values, ids, 2, None) is ids


def test_sums_and_maxima_are_taken_over_the_group_where_there_is_one(monkeypatch):
    asked = []
    monkeypatch.setattr(dist, "all_reduce", lambda values, op, group: asked.append((op, group)))
    values = torch.ones(2)
    assert summed(values, None) is values
    assert asked == []
    assert summed(values, VocabShard("group", 0)) is values
    assert reduced(values, VocabShard("group", 0), dist.ReduceOp.MAX) is values
    assert asked == [(dist.ReduceOp.SUM, "group"), (dist.ReduceOp.MAX, "group")]


def test_the_share_that_two_lists_have_in_common():
    first = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]])
    second = torch.tensor([[4, 9, 8, 1], [5, 6, 7, 8], [1, 2, 3, 4]])
    assert shared(first, second).tolist() == [0.5, 0, 1]


def test_float64_is_not_rounded_to_compare():
    z = torch.tensor([[1.0, 1.0 + 1e-12, 1.0 - 1e-12]], dtype=torch.float64)
    assert top_ids(z, None, 3).tolist() == [[1, 0, 2]]
