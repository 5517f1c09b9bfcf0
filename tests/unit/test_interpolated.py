"""Log-probabilities between two policies, against the plain formula."""

import pytest
import torch

from verl_ext.losses import interpolated
from verl_ext.losses.interpolated import interpolated_log_probs


def logits(tokens=7, vocab=11, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    made = torch.randn(2, tokens, vocab, generator=draw, dtype=torch.float64)
    return (
        made[0].to(dtype),
        made[1].to(dtype),
        torch.stack([torch.arange(tokens) % vocab, torch.arange(1, tokens + 1) % vocab], -1),
    )


def plain(ref, student, labels, rate):
    mixed = ((1 - rate) * ref.double() + rate * student.double()).log_softmax(-1)
    return mixed.gather(-1, labels)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_it_is_the_log_softmax_of_the_interpolated_logits(rate):
    ref, student, labels = logits()
    found = interpolated_log_probs(ref, student, labels, rate)
    torch.testing.assert_close(found, plain(ref, student, labels, rate), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_rows_and_pieces_change_nothing(monkeypatch, chunk):
    monkeypatch.setattr(interpolated, "default_chunk", lambda _: chunk)
    ref, student, labels = logits()
    rows = torch.tensor([0, 3, 6])
    found = interpolated_log_probs(ref, student, labels[rows], 0.25, rows=rows)
    assert torch.equal(found, interpolated_log_probs(ref, student, labels, 0.25)[rows])


def test_logits_of_16_bits_are_interpolated_in_32():
    ref, student, labels = logits(dtype=torch.bfloat16)
    found = interpolated_log_probs(ref, student, labels, 0.05)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), plain(ref, student, labels, 0.05), rtol=0, atol=1e-6)


def test_without_a_selected_token_there_is_nothing():
    ref, student, labels = logits()
    none = torch.tensor([], dtype=torch.int64)
    assert interpolated_log_probs(ref, student, labels[:0], 0.5, rows=none).shape == (0, 2)


def test_no_gradient_flows():
    ref, student, labels = logits()
    assert not interpolated_log_probs(ref, student.requires_grad_(), labels, 0.5).requires_grad


def test_what_does_not_fit_is_refused():
    ref, student, labels = logits()
    with pytest.raises(ValueError, match="labels must have 7 rows"):
        interpolated_log_probs(ref, student, labels[:-1], 0.5)
    with pytest.raises(ValueError, match="shapes must be equal"):
        interpolated_log_probs(ref[:-1], student, labels, 0.5)
    with pytest.raises(ValueError, match="rate must be in"):
        interpolated_log_probs(ref, student, labels, 1.5)


def test_a_row_too_many_is_refused_where_rows_are_selected_too():
    ref, student, labels = logits()
    rows = torch.tensor([0, 3])
    with pytest.raises(ValueError, match="shapes must be equal"):
        interpolated_log_probs(ref, student[:-1], labels[rows], 0.5, rows=rows)


def test_the_shard_is_asked_whether_its_size_goes_with_its_start():
    class Shard:
        def require_size(self, size):
            raise ValueError(f"no shard of {size}")

    ref, student, labels = logits()
    with pytest.raises(ValueError, match="no shard of 11"):
        interpolated_log_probs(ref, student, labels, 0.5, vocab=Shard())
