"""What a row becomes does not depend on the rows beside it; nothing here is about their number.

Whether plain `linear` breaks this is up to the math library of the machine, so the library of this
one is not asked: fakes stand for libraries that do, and `test_vllm_cpu_patches` asks whether vLLM
still leaves it to them.
"""

import pytest
import torch
import torch.nn.functional as F

from verl_ext.platforms import row_blocks
from verl_ext.platforms.row_blocks import (
    ALIGNMENT,
    MOST_ROWS,
    ROWS,
    large_product_keeps_bits,
    linear_by_blocks,
)
from verl_ext.toy.model import cpu_threads

TOY = [(128, 256), (128, 128), (128, 512), (256, 128), (128, 264)]  # its linear layers and its head
OTHERS = [(64, 64), (65, 33), (96, 7), (512, 1001), (1000, 129), (2048, 100)]
COUNTS = [1, 2, 3, 4, 5, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5, 100, MOST_ROWS - 1, MOST_ROWS]
TOTAL = MOST_ROWS + 2 * ROWS + 5


def draw(channels, outputs, dtype=torch.float32, rows=TOTAL):
    generator = torch.Generator().manual_seed(channels + outputs)
    shapes = [(rows, channels), (outputs, channels), (outputs,)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("channels", "outputs"), TOY + OTHERS)
def test_a_row_keeps_its_bits_for_any_number_of_rows_and_any_place(channels, outputs, dtype):
    x, weight, bias = draw(channels, outputs, dtype)
    together = linear_by_blocks(x, weight, bias)
    shuffle = torch.Generator().manual_seed(0)
    for count in [*COUNTS, MOST_ROWS + 1, TOTAL]:
        chosen = torch.randperm(TOTAL, generator=shuffle)[:count]
        assert torch.equal(linear_by_blocks(x[chosen], weight, bias), together[chosen])
    for row in range(ROWS + 1):
        alone = linear_by_blocks(x[row : row + 1], weight, bias)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("neighbour", [0.0, -1e30, float("inf"), float("nan")])
def test_a_row_keeps_its_bits_beside_any_neighbour(neighbour):
    x, weight, bias = draw(128, 264)
    together = linear_by_blocks(x, weight, bias)
    for place in (0, 1, ROWS // 2, ROWS - 1, ROWS, TOTAL - 1):
        lonely = torch.full_like(x, neighbour)
        lonely[place] = x[place]
        assert torch.equal(linear_by_blocks(lonely, weight, bias)[place], together[place])


@pytest.fixture
def library(monkeypatch):
    """Replaces the product by that of another library, and forgets what was tried out on it."""

    def use(linear):
        monkeypatch.setattr(row_blocks.F, "linear", linear)
        large_product_keeps_bits.cache_clear()

    yield use
    large_product_keeps_bits.cache_clear()


def ascending(x, weight):
    total = torch.zeros(len(x), len(weight))
    for channel in range(x.shape[-1]):
        total += x[:, None, channel] * weight[:, channel]
    return total


def descending(x, weight):
    return ascending(x.flip(-1), weight.flip(-1))


def turns_with_the_number_of_rows(x, weight, bias=None):
    return descending(x, weight) if len(x) in (1, 2, ROWS) else ascending(x, weight)


def turns_beyond_some_rows(x, weight, bias=None):
    return ascending(x, weight) if len(x) <= 3 * ROWS else descending(x, weight)


def turns_at_the_last_rows_of_many(x, weight, bias=None):
    edge = len(x) - len(x) % 12 if len(x) > ROWS else len(x)
    return torch.cat([ascending(x[:edge], weight), descending(x[edge:], weight)])


def turns_where_x_is_not_aligned(x, weight, bias=None):
    return ascending(x, weight) if x.data_ptr() % ALIGNMENT else descending(x, weight)


@pytest.mark.parametrize(
    "linear",
    [
        turns_with_the_number_of_rows,
        turns_beyond_some_rows,
        turns_at_the_last_rows_of_many,
        turns_where_x_is_not_aligned,
    ],
)
def test_a_row_keeps_its_bits_whatever_the_library_does(library, linear):
    x, weight, _ = draw(65, 33)
    shifted = torch.zeros(x.numel() + 1)[1:].view_as(x).copy_(x)  # begins four bytes further on
    unpatched = [linear(rows[:count], weight)[0] for rows in (x, shifted) for count in (1, TOTAL)]
    rows_beyond = linear(x[:100], weight)[99], linear(x[92:100], weight)[7]
    assert len({row.numpy().tobytes() for row in unpatched}) > 1 or not torch.equal(*rows_beyond)
    library(linear)
    together = linear_by_blocks(x, weight)
    for count in [*COUNTS, TOTAL]:
        assert torch.equal(linear_by_blocks(x[:count], weight), together[:count])
        assert torch.equal(linear_by_blocks(x[-count:], weight), together[-count:])
        assert torch.equal(linear_by_blocks(shifted[:count], weight), together[:count])
        assert torch.equal(linear_by_blocks(x.T.contiguous().T[:count], weight), together[:count])


@pytest.mark.parametrize(
    ("linear", "sizes"),
    [
        (ascending, [MOST_ROWS, 3 * ROWS]),
        (turns_beyond_some_rows, [ROWS] * (MOST_ROWS // ROWS) + [3 * ROWS]),
    ],
)
def test_products_are_as_large_as_the_library_allows(library, linear, sizes):
    seen = []

    def counting(x, weight, bias=None):
        seen.append(len(x))
        return linear(x, weight)

    library(counting)
    x, weight, _ = draw(65, 33, rows=MOST_ROWS + 3 * ROWS)
    linear_by_blocks(x, weight)
    seen.clear()
    linear_by_blocks(x, weight)  # what the library does is tried out but once
    assert seen == sizes


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(5,), (ROWS,), (2, 37), (3, 1, 100)])
def test_the_values_are_those_of_linear(leading, bias):
    x, weight, b = draw(96, 7, torch.float64, rows=torch.Size(leading).numel())
    x, b = x.view(*leading, 96), b if bias else None
    torch.testing.assert_close(linear_by_blocks(x, weight, b), F.linear(x, weight, b))


def test_no_rows_give_no_rows():
    assert linear_by_blocks(torch.zeros(0, 8), torch.zeros(3, 8)).shape == (0, 3)


def silu_and_mul(x):
    half = x.shape[-1] // 2
    return F.silu(x[..., :half]) * x[..., half:]


def rms_norm(x):
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return x * scale * torch.linspace(0.5, 1.5, x.shape[-1])


# Several threads cut a large input in the middle of a row, and torch's silu has other bits where
# the vector instructions of a cut end: widths that are no multiple of them need the one thread
# that recipes/scale/cpu.yaml sets.
@pytest.mark.parametrize(
    ("threads", "channels"),
    [*((1, channels) for channels in (32, 34, 128, 264, 514, 4096)), (2, 128), (2, 512)],
)
@pytest.mark.parametrize(
    "layer", [rms_norm, silu_and_mul, F.log_softmax, F.softmax], ids=lambda layer: layer.__name__
)
def test_the_other_layers_of_vllm_keep_a_rows_bits_without_our_help(layer, channels, threads):
    """vLLM-CPU leaves them to torch. Should this fail somewhere, they need a patch there."""
    x, _, _ = draw(channels, 1)
    apply = (lambda x: layer(x, dim=-1)) if layer.__module__ == F.__name__ else layer
    with cpu_threads(threads):
        together = apply(x)
        for row in range(0, TOTAL, 7):
            assert torch.equal(apply(x[row : row + 1].clone())[0], together[row])
            assert torch.equal(apply(x[row:].clone()), together[row:])
