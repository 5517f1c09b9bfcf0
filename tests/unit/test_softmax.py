"""A softmax in two numbers: of one shard among two, whose other half is handed in."""

import pytest
import torch
from torch import distributed as dist

from verl_ext.losses.chunks import TokenRows
from verl_ext.losses.softmax import log_probs_of, scan
from verl_ext.losses.vocabulary import BLOCK, VocabShard

SIZES = (5, BLOCK, 2 * BLOCK, 2 * BLOCK + 3)


def logits(vocab, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, vocab, generator=draw, dtype=torch.float64).to(dtype) * 5


@pytest.fixture
def others(monkeypatch):
    """What the other shard holds, by the kind of the reduction."""
    held = {}

    def all_reduce(values, op, group):
        assert group == "group"
        if op == dist.ReduceOp.MAX:
            values.copy_(torch.maximum(values, held["max"]))
        else:
            values.add_(held["sum"])

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return held


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_two_numbers_give_every_log_probability(vocab, chunk):
    z = logits(vocab)
    softmax, none = scan(z, TokenRows(None, 4, chunk), None, None)
    assert none.shape == (4, 0)
    assert torch.equal(softmax.peak, z.amax(-1))
    close(softmax.log_probs(z), z.log_softmax(-1))
    close(softmax.all_log_probs(z[1:3], slice(1, 3)), z.log_softmax(-1)[1:3])


@pytest.mark.parametrize("vocab", SIZES)
def test_the_most_likely_are_found_on_the_way(vocab):
    z = logits(vocab)
    assert torch.equal(scan(z, TokenRows(None, 4, 3), 2, None)[1], z.topk(2).indices)


def test_a_shard_has_the_softmax_of_the_whole_vocabulary(others):
    whole = logits(10)
    here, there = whole[:, 5:], whole[:, :5]
    others["max"] = there.amax(-1)
    others["sum"] = (there - whole.amax(-1, keepdim=True)).exp().sum(-1)
    tokens, shard = TokenRows(None, 4, 3), VocabShard("group", 5)
    softmax, _ = scan(here, tokens, None, shard)
    assert torch.equal(softmax.peak, whole.amax(-1))
    close(softmax.log_probs(whole), whole.log_softmax(-1))
    ids = torch.tensor([[0, 9], [5, 4], [6, 7], [1, 2]])
    others["sum"] = whole.gather(-1, ids) * (ids < 5)
    close(log_probs_of(here, ids, softmax, tokens, shard), whole.log_softmax(-1).gather(-1, ids))


def test_a_shard_without_a_possible_token_leaves_all_to_the_others(others):
    there = logits(5)
    others["max"] = there.amax(-1)
    others["sum"] = (there - there.amax(-1, keepdim=True)).exp().sum(-1)
    nothing = torch.full((4, 5), -torch.inf, dtype=torch.float64)
    softmax, _ = scan(nothing, TokenRows(None, 4, 4), None, VocabShard("group", 5))
    close(softmax.log_probs(there), there.log_softmax(-1))


def test_a_shard_smaller_than_k_offers_all_it_has(others, monkeypatch):
    whole = logits(6)
    here, there = whole[:, 3:], whole[:, :3]
    others["max"], others["sum"] = there.amax(-1), torch.zeros(4, dtype=torch.float64)
    offered = there.topk(3)

    def all_gather(found, own, group):
        found[0].copy_(offered.indices if own.dtype == torch.int64 else offered.values)
        found[1].copy_(own)

    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    _, ids = scan(here, TokenRows(None, 4, 4), 4, VocabShard("group", 3))
    assert torch.equal(ids, whole.topk(4).indices)
