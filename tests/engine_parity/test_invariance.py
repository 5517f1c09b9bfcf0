"""The gradient does not depend on how a mini-batch is cut, shared, padded or ordered.

Micro-batches x data parallel x tensor parallel x padding x order of the rows, for every method, on
both engines, all against one gradient: of plain Hugging Face in double precision, one row at a
time. The whole gradient is compared, not its norm alone. `make test` runs a cover in which every
pair of values occurs, `make test-wide` all of them; `crossing.py` has the axes.

A row takes its prompt and task along when rows are shuffled, so advantages and masks are computed
in that order too. Rows that a mask leaves empty stay, where the mini-batch would not divide.

=================  =========  ====================================================================
what               tolerance  the largest error of the cover, and why
=================  =========  ====================================================================
FSDP2, float32     1e-5       1.5e-6: rounding
FSDP2, float64     1e-10      3.1e-16: Hugging Face's norms are float32 whatever the model is,
                              but token by token, so here they round as in the reference
Megatron, float32  1e-5       2.1e-6: rounding
=================  =========  ====================================================================

Megatron has no float64: its optimizer refuses such weights, verl has it sum gradients in float32,
and its vocabulary-parallel cross-entropy computes in float32 whatever it is given. Our own kernel
over a split vocabulary does not: in float64 shards, rows and chunks change nothing above 1e-12
(`unit/test_vocab_parallel_divergence.py`, `unit/test_divergence_rows.py`). That advantages, masks
and filters move with their rows, in any batch, is promised in `contract/test_advantages.py`,
`unit/test_entropy_masks.py` and `unit/test_std_filter.py`.
"""

import pytest
from engine_parity import cases, compare, crossing, engines

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
COVER = crossing.cover(crossing.ALL)


def named(cells):
    return [
        pytest.param(
            cell,
            cell.layout,
            id="-".join(map(str, cell)),
            marks=() if cell in COVER else pytest.mark.wide,
        )
        for cell in cells
    ]


@pytest.mark.parametrize(("cell", "layout"), named(crossing.ALL))
def test_the_gradient_is_the_same(ranks, model_folder, expected, cell, layout):
    wanted = expected(cell.method, "qwen3", decay_vectors=True)["gradient"]
    error = compare.gradient_error(gradient(ranks, model_folder, cell), wanted)
    assert error <= TOLERANCES[cell.precision]


def test_megatron_has_no_double_precision(ranks, model_folder):
    """Fails once it has, and then `Cell.exists` should let it in."""
    cell = crossing.Cell("task_norm", "megatron", 1, 1, "by_tokens", "packed", "as_made", "float64")
    with pytest.raises(RuntimeError, match=r"Wrapped parameters must be .* torch\.DoubleTensor"):
        gradient(ranks, model_folder, cell)


def gradient(ranks, model_folder, cell):
    method = cases.METHODS[cell.method]
    batch = cases.make_batch().rows(crossing.ORDERS[cell.order])
    batch, advantages = method.prepare(batch, multiple=crossing.ROWS)
    config = engines.compose(method, cell.engine, cell.overrides)
    arguments = (config, model_folder("qwen3"), batch, advantages, cell.precision)
    found = ranks(cell.ranks).run(engines.gradient, *arguments)
    (whole,) = filter(None, found)
    return whole
