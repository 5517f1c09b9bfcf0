"""Linear layers in which a row's bits do not depend on the rows beside it.

A matrix product picks its kernel, and with it the order of its sums, by the number of rows: a
token decoded alone gets other last bits than the same token in a batch of a hundred. Then what a
rollout says depends on which other requests happened to be running. Here a row always gets the
bits it has in a product of ``ROWS`` rows. Larger products are used where they give these bits,
which is tried out once for each shape: they spare most of the calls.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# One decoding request is filled up to this. A row's bits belong to this number.
ROWS = 8
# Longer inputs are cut: a product gains nothing beyond, and fewer shapes have to be tried out.
MOST_ROWS = 256
# Math libraries may pick a kernel by where their input begins, too; torch allocates like this.
ALIGNMENT = 64  # bytes


def linear_by_blocks(
    x: Float[Tensor, "*rows channels"],
    weight: Float[Tensor, "outputs channels"],
    bias: Float[Tensor, "outputs"] | None = None,
) -> Float[Tensor, "*rows outputs"]:
    """Returns x Wᵀ + b, each row with the bits it has among ``ROWS`` rows of any content.

    M rows cost ⌈M / ``MOST_ROWS``⌉ products and up to ``ROWS`` - 1 rows too many; ⌈M / ``ROWS``⌉
    products where the library sums a larger one in another order.

    Args:
        x: any number of leading axes; all of them count as rows.
        weight: W.
        bias: b, or None for none.

    Returns:
        The rows in their order.

    Degenerate: no rows give no rows.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    count = len(rows)
    if count % ROWS:
        rows = F.pad(rows, (0, 0, 0, -count % ROWS))
    if len(rows) <= MOST_ROWS:  # while decoding: nothing to cut, nothing to copy
        product = _product(rows, weight, bias)
    else:
        product = torch.cat(
            [_product(block, weight, bias) for block in torch.split(rows, MOST_ROWS)]
        )
    return product[:count].reshape(*x.shape[:-1], len(weight))


@torch.library.custom_op("verl_ext::linear_by_blocks", mutates_args=())
def opaque_linear_by_blocks(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same as one operation, which torch.compile does not look into."""
    return linear_by_blocks(x, weight, bias)


@opaque_linear_by_blocks.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


@cache
def large_product_keeps_bits(
    count: int, shape: tuple[int, int], dtype: torch.dtype, has_bias: bool, threads: int
) -> bool:
    """Whether a product over ``count`` rows gives each row the bits of one over ``ROWS`` rows.

    Kernels are picked by shape, not by content, so numbers that differ in each row decide for all.

    Args:
        count: rows, a multiple of ``ROWS``.
        shape: (outputs, channels).
        dtype: of input, weight and bias.
        has_bias: whether a bias is added, in the same kernel.
        threads: what torch computes with; only a key of the cache.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator).to(dtype)
        for size in ((count, shape[1]), shape, shape[:1])
    )
    given = bias if has_bias else None
    return torch.equal(F.linear(x, weight, given), _small_products(x, weight, given))


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    threads = torch.get_num_threads()
    if large_product_keeps_bits(len(rows), weight.shape, weight.dtype, bias is not None, threads):
        return F.linear(_aligned(rows), weight, bias)
    return _small_products(rows, weight, bias)


def _small_products(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.cat([F.linear(_aligned(part), weight, bias) for part in torch.split(rows, ROWS)])


def _aligned(rows: Tensor) -> Tensor:
    return rows.clone() if rows.data_ptr() % ALIGNMENT else rows
