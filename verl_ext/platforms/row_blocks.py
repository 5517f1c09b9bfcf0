"""Linear layers in which a row's bits do not depend on the rows beside it.

A matrix product picks its kernel, and with it the order of its sums, by the number of rows: a
token decoded alone gets other last bits than the same token in a batch of a hundred. Then what a
rollout says depends on which other requests happened to be running. Here every product has the
same number of rows; the last block is filled up with zeros.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Few enough that one decoding request pays little for the filling, enough that a long prompt pays
# little for the calls. A row keeps its bits for as long as this number stays the same.
ROWS = 32
# Math libraries may pick a kernel by the alignment of their input, too. 32 rows of any number of
# channels are a multiple of 64 bytes, so every block is aligned if the first one is.
ALIGNMENT = 64


def linear_by_blocks(
    x: Float[Tensor, "*rows channels"],
    weight: Float[Tensor, "outputs channels"],
    bias: Float[Tensor, "outputs"] | None = None,
) -> Float[Tensor, "*rows outputs"]:
    """Returns x Wᵀ + b, each product over exactly ``ROWS`` rows.

    With R = ``ROWS`` and M rows, ⌈M/R⌉ products are computed: up to R - 1 rows too many, and one
    call more for each R rows.

    Args:
        x: any number of leading axes; all of them count as rows.
        weight: W.
        bias: b, or None for none.

    Returns:
        The rows in their order.

    Degenerate: no rows give no rows.
    """
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    if rows.data_ptr() % ALIGNMENT:
        rows = rows.clone()
    blocks = list(torch.split(rows, ROWS))
    missing = -len(rows) % ROWS
    if missing:
        blocks[-1] = F.pad(blocks[-1], (0, 0, 0, missing))
    products = [F.linear(block, weight, bias) for block in blocks]
    # One block is the common case while decoding, and needs no copy.
    product = products[0] if len(products) == 1 else torch.cat(products)
    return product[: len(rows)].reshape(*x.shape[:-1], len(weight))
