"""Rows a few at a time: their sizes, and that nothing is left out or mixed up."""

import pytest
import torch

from verl_ext.losses.chunks import (
    ACCELERATOR_BYTES,
    THREAD_BYTES,
    TokenRows,
    arithmetic,
    default_chunk,
)

ROWS = torch.tensor([0, 2, 3])


def logits(tokens=5, vocab=4):
    return torch.arange(float(tokens * vocab)).view(tokens, vocab)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 8), (torch.bfloat16, 4)])
def test_a_chunk_fills_the_caches_of_all_threads(monkeypatch, dtype, size):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    z = torch.empty(2, 1024, dtype=dtype)
    assert default_chunk(z) == 3 * THREAD_BYTES // (1024 * size)


def test_an_accelerator_has_a_larger_one():
    z = torch.empty(2, 1024, device="meta")
    assert default_chunk(z) == ACCELERATOR_BYTES // (1024 * 4)


def test_a_chunk_is_a_row_at_least():
    assert default_chunk(torch.empty(1, 1, device="meta").expand(1, 10**9)) == 1


def test_short_numbers_are_computed_in_float32():
    assert arithmetic(torch.float64) == torch.float64
    for short in (torch.float32, torch.bfloat16, torch.float16):
        assert arithmetic(short) == torch.float32


@pytest.mark.parametrize("chunk", [1, 2, 3, 9])
def test_pieces_cover_all_rows_once_and_are_as_long_as_they_may_be(chunk):
    pieces = list(TokenRows(None, 5, chunk).pieces())
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] == list(range(5))
    assert [piece.stop - piece.start for piece in pieces[:-1]] == [chunk] * (len(pieces) - 1)


def test_narrow_rows_come_in_larger_pieces_and_wide_ones_no_smaller():
    rows = TokenRows(None, 10**6, 7)
    assert next(rows.pieces(width=64)).stop == THREAD_BYTES // (8 * 64)
    assert next(rows.pieces(width=10**9)).stop == 7


def test_all_rows_are_a_view_and_named_ones_a_copy():
    z = logits()
    TokenRows(None, 5, 2).take(z, slice(1, 3)).zero_()
    assert z[1:3].sum() == 0
    taken = TokenRows(ROWS, 3, 2).take(z, slice(1, 3))
    assert torch.equal(taken, z[[2, 3]])
    taken.fill_(9)
    assert torch.equal(z[3], logits()[3])


@pytest.mark.parametrize("rows", [None, ROWS])
def test_a_piece_is_put_where_it_was_taken_in_the_type_that_is_there(rows):
    z = logits().bfloat16()
    tokens = TokenRows(rows, 3, 2)
    values = tokens.take(z, slice(1, 3)).double() + 1
    tokens.put(z, slice(1, 3), values)
    changed = torch.tensor([1, 2]) if rows is None else rows[1:3]
    expected = logits()
    expected[changed] += 1
    assert z.dtype == torch.bfloat16
    assert torch.equal(z.float(), expected)


def test_ids_are_gathered_from_their_own_rows():
    ids = torch.tensor([[0, 3], [1, 1], [2, 0]])
    z = logits()
    assert TokenRows(ROWS, 3, 1).gather(z, ids).tolist() == [[0, 3], [9, 9], [14, 12]]
    assert TokenRows(None, 3, 1).gather(z[:3], ids).tolist() == [[0, 3], [5, 5], [10, 8]]
