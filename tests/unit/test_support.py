"""A support chosen in one pass and judged in another, against plain softmax and top-k."""

import pytest
import torch

from verl_ext.losses import support
from verl_ext.losses.support import log_probs_at, most_likely_tokens

ROWS = torch.tensor([0, 3, 6])


def logits(tokens=7, vocab=40, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, vocab, generator=draw, dtype=torch.float64).to(dtype)


def test_the_most_likely_tokens_come_largest_first():
    z = logits()
    found = most_likely_tokens(z, 5)
    assert torch.equal(found, z.topk(5, -1).indices)


@pytest.mark.parametrize("top_k", [1, 40])
def test_one_token_or_all_may_be_asked_for(top_k):
    z = logits()
    assert torch.equal(most_likely_tokens(z, top_k), z.topk(top_k, -1).indices)


def test_of_equal_logits_the_lowest_id_is_taken():
    assert most_likely_tokens(torch.zeros(2, 9), 3).tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_rows_and_pieces_change_nothing(monkeypatch, chunk):
    monkeypatch.setattr(support, "default_chunk", lambda _: chunk)
    z = logits()
    ids = most_likely_tokens(z, 4, rows=ROWS)
    assert torch.equal(ids, most_likely_tokens(z, 4)[ROWS])
    expected = z.log_softmax(-1).gather(-1, most_likely_tokens(z, 4))[ROWS]
    torch.testing.assert_close(log_probs_at(z, ids, rows=ROWS), expected, rtol=0, atol=1e-12)


def test_log_probs_are_normalised_over_the_whole_vocabulary():
    z = logits(dtype=torch.float32)
    every = torch.arange(40).expand(7, -1)
    found = log_probs_at(z, every)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double().exp().sum(-1), torch.ones(7).double())


def test_logits_of_16_bits_are_read_in_32():
    z = logits(dtype=torch.bfloat16)
    ids = most_likely_tokens(z, 3)
    expected = z.double().log_softmax(-1).gather(-1, ids)
    torch.testing.assert_close(log_probs_at(z, ids).double(), expected, rtol=0, atol=1e-6)


def test_no_selected_token_gives_nothing():
    none = torch.tensor([], dtype=torch.int64)
    assert most_likely_tokens(logits(), 3, rows=none).shape == (0, 3)
    ids = torch.zeros(0, 3, dtype=torch.int64)
    assert log_probs_at(logits(), ids, rows=none).shape == (0, 3)


def test_no_gradient_flows():
    z = logits().requires_grad_()
    assert not log_probs_at(z, most_likely_tokens(z, 2)).requires_grad


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="between 1 and the vocabulary's 40, got 41"):
        most_likely_tokens(logits(), 41)
    with pytest.raises(ValueError, match="between 1 and the vocabulary's 40, got 0"):
        most_likely_tokens(logits(), 0)
    with pytest.raises(ValueError, match="ids must have 3 rows"):
        log_probs_at(logits(), torch.zeros(7, 2, dtype=torch.int64), rows=ROWS)


class Shard:
    """One of two, which looks at its size alone."""

    count = 2

    def __init__(self, size):
        self.size = size

    def require_size(self, size):
        if size != self.size:
            raise ValueError(f"no shard of {size}")


def test_the_shard_is_asked_whether_its_size_goes_with_its_start():
    with pytest.raises(ValueError, match="no shard of 40"):
        most_likely_tokens(logits(), 3, vocab=Shard(41))
    with pytest.raises(ValueError, match="no shard of 40"):
        log_probs_at(logits(), torch.zeros(7, 2, dtype=torch.int64), vocab=Shard(41))


def test_as_many_tokens_may_be_asked_for_as_all_shards_hold():
    with pytest.raises(ValueError, match="between 1 and the vocabulary's 80, got 81"):
        most_likely_tokens(logits(), 81, vocab=Shard(40))
