"""The gradient does not depend on how a mini-batch is cut, shared, padded or ordered.

Micro-batches x data parallel x tensor parallel x padding x order of the rows, for every method, on
both engines, all against one gradient: of plain Hugging Face in double precision, one row at a
time. The whole gradient is compared, not its norm alone. `make test` runs a cover in which every
pair of values occurs, `make test-wide` all of them; `crossing.py` has the axes.

A row takes its prompt and task along when rows are shuffled: advantages and masks are computed
in that order too.
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
    print(f"ERR {cell.engine} {cell.precision} {error:.2e} {cell}")
    assert error <= TOLERANCES[cell.precision]


def gradient(ranks, model_folder, cell):
    method = cases.METHODS[cell.method]
    batch = cases.make_batch().rows(crossing.ORDERS[cell.order])
    batch, advantages = method.prepare(batch, multiple=crossing.ROWS)
    config = engines.compose(method, cell.engine, cell.overrides)
    arguments = (config, model_folder("qwen3"), batch, advantages, cell.precision)
    found = ranks(cell.ranks).run(engines.gradient, *arguments)
    (whole,) = filter(None, found)
    return whole
