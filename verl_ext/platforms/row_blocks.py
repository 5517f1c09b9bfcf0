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
    filled = F.pad(rows, (0, 0, 0, -len(rows) % ROWS)) if len(rows) % ROWS else rows
    products: list[Tensor] = []
    for block in torch.split(filled, MOST_ROWS):
        keeps_bits = large_product_keeps_bits(
            len(block), weight.shape, weight.dtype, bias is not None, torch.get_num_threads()
        )
        products += _products(block, weight, bias, len(block) if keeps_bits else ROWS)
    # A single product is the common case while decoding, and needs no copy.
    product = products[0] if len(products) == 1 else torch.cat(products)
    return product[: len(rows)].reshape(*x.shape[:-1], len(weight))


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
    small = torch.cat(_products(x, weight, given, ROWS))
    return torch.equal(F.linear(x, weight, given), small)


def _products(x: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> list[Tensor]:
    """The product in parts of ``size`` rows, each of them aligned."""
    parts = torch.split(x, size)
    aligned = [part.clone() if part.data_ptr() % ALIGNMENT else part for part in parts]
    return [F.linear(part, weight, bias) for part in aligned]
