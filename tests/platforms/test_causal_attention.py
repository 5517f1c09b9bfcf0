"""Attention of the CPU platform against a loop over single queries."""

from itertools import chain

import pytest
import torch

from verl_ext.platforms.causal_attention import Sequences, attend


def one_query_at_a_time(query, key, value, lengths, scale):
    """Flat tokens, whole sequences; grouped heads share a key head with their neighbours."""
    outputs, start = [], 0
    for length in lengths:
        for position in range(length):
            heads = []
            for head in range(query.shape[1]):
                shared = head // (query.shape[1] // key.shape[1])
                seen = slice(start, start + position + 1)
                logits = scale * key[seen, shared] @ query[start + position, head]
                heads.append(logits.softmax(0) @ value[seen, shared])
            outputs.append(torch.stack(heads))
        start += length
    return torch.stack(outputs)


def draw(tokens, heads=4, kv_heads=2, channels=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tokens, heads, channels), (tokens, kv_heads, channels), (tokens, kv_heads, channels)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def held_by(lengths, ranks):
    """For each rank: the flat indices of its tokens, chunks r and 2n-1-r of each sequence."""
    index = [[] for _ in range(ranks)]
    start = 0
    for length in lengths:
        chunks = torch.arange(start, start + length).chunk(2 * ranks)
        for rank in range(ranks):
            index[rank] += [*chunks[rank].tolist(), *chunks[2 * ranks - 1 - rank].tolist()]
        start += length
    return index


@pytest.mark.parametrize("lengths", [(5,), (1, 7, 3), (4, 4)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_whole_sequences(lengths, scale):
    query, key, value = draw(sum(lengths))
    expected = one_query_at_a_time(query, key, value, lengths, scale or 8**-0.5)
    actual = attend(query, key, value, Sequences(lengths), scale=scale)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_rank_of_a_zigzag_gets_its_part_of_the_whole(ranks):
    lengths = (2 * ranks, 6 * ranks, 4 * ranks)
    query, key, value = draw(sum(lengths))
    whole = one_query_at_a_time(query, key, value, lengths, 8**-0.5)
    index = held_by(lengths, ranks)
    gathered = torch.tensor(list(chain(*index)))
    for rank in range(ranks):
        mine = torch.tensor(index[rank])
        sequences = Sequences(lengths, rank, ranks)
        actual = attend(query[mine], key[gathered], value[gathered], sequences)
        torch.testing.assert_close(actual, whole[mine], rtol=0, atol=1e-12)


@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_are_those_of_the_loop(ranks):
    lengths = (4, 8)
    tensors = [x.requires_grad_() for x in draw(sum(lengths))]
    weight = torch.randn(12, 4, 8, dtype=torch.float64)
    loss = (one_query_at_a_time(*tensors, lengths, 8**-0.5) * weight).sum()
    expected = torch.autograd.grad(loss, tensors)
    index = held_by(lengths, ranks) if ranks > 1 else [list(range(12))]
    gathered = torch.tensor(list(chain(*index)))
    query, key, value = tensors
    total = 0
    for rank in range(ranks):
        mine = torch.tensor(index[rank])
        part = attend(query[mine], key[gathered], value[gathered], Sequences(lengths, rank, ranks))
        total = total + (part * weight[mine]).sum()
    for actual, wanted in zip(torch.autograd.grad(total, tensors), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


def test_a_length_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="6 tokens do not split over 2 ranks"):
        Sequences((6,), 0, 2).positions(0)
