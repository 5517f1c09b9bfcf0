"""What a row becomes does not depend on the rows beside it; nothing here is about their number.

Whether plain `linear` breaks this is up to the math library of the machine, so no test asks it:
`test_cpu_patches` asks whether vLLM still leaves it to that library.
"""

import pytest
import torch
import torch.nn.functional as F

from verl_ext.platforms import row_blocks
from verl_ext.platforms.row_blocks import ALIGNMENT, ROWS, linear_by_blocks

TOY = [(128, 256), (128, 128), (128, 512), (256, 128), (128, 264)]  # its linear layers and its head
OTHERS = [(64, 64), (65, 33), (96, 7), (512, 1001), (1000, 129), (2048, 100)]
TOTAL = 3 * ROWS + 5


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
    for count in [1, 2, 3, 4, 5, 7, 8, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 3 * ROWS + 1, TOTAL]:
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


@pytest.mark.parametrize("count", [1, 2, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, TOTAL])
def test_the_library_always_sees_the_same_shape_and_alignment(monkeypatch, count):
    """Why it holds on a machine that these tests never ran on."""
    seen = []

    def linear(x, weight, bias=None):
        seen.append((tuple(x.shape), x.stride(), x.data_ptr() % ALIGNMENT))
        return x @ weight.T

    monkeypatch.setattr(row_blocks.F, "linear", linear)
    x, weight, _ = draw(65, 33, rows=count)
    shifted = torch.zeros(count * 65 + 1)[1:].view(count, 65)
    linear_by_blocks(x, weight)
    linear_by_blocks(shifted, weight)
    linear_by_blocks(x.T.contiguous().T, weight)
    assert set(seen) == {((ROWS, 65), (65, 1), 0)}
    assert len(seen) == 3 * -(-count // ROWS)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(5,), (ROWS,), (2, 37), (3, 1, 40)])
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


@pytest.mark.parametrize("channels", [32, 34, 128, 264, 514, 4096])
@pytest.mark.parametrize(
    "layer", [rms_norm, silu_and_mul, F.log_softmax, F.softmax], ids=lambda layer: layer.__name__
)
def test_the_other_layers_of_vllm_keep_a_rows_bits_without_our_help(layer, channels):
    """vLLM-CPU leaves them to torch. Should this fail somewhere, they need a patch there."""
    x, _, _ = draw(channels, 1)
    apply = (lambda x: layer(x, dim=-1)) if layer.__module__ == F.__name__ else layer
    together = apply(x)
    for row in range(0, TOTAL, 7):
        assert torch.equal(apply(x[row : row + 1].clone())[0], together[row])
        assert torch.equal(apply(x[row:].clone()), together[row:])
