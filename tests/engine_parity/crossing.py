"""Every way to cut, share, pad and order one mini-batch, and a few that stand for all of them."""

import itertools
import random
from typing import NamedTuple

from engine_parity.cases import METHODS
from engine_parity.layouts import ACTOR, MEGATRON, MICRO_BATCHES, PACKED, UNPACKED

FSDP = f"{ACTOR}.fsdp_config"
PADDINGS = {
    "dp": {
        "packed": [PACKED],
        "packed_to_64": [PACKED, f"{FSDP}.pad_to_length=true", f"{FSDP}.pad_to_length_bucket=64"],
        "micro_batch": [UNPACKED],
    },
    "megatron": {
        "packed": [PACKED],
        "packed_to_64": [
            PACKED,
            f"{MEGATRON}.pad_to_length=true",
            f"{MEGATRON}.pad_to_length_bucket=64",
        ],
        "micro_batch": [UNPACKED, f"{MEGATRON}.pad_bshd_to_minibatch_max=false"],
        "mini_batch": [UNPACKED, f"{MEGATRON}.pad_bshd_to_minibatch_max=true"],
    },
}
ORDERS = {"as_made": list(range(8)), "shuffled": [5, 2, 7, 0, 3, 6, 1, 4]}
# Of the mini-batch, so that two data-parallel ranks each have passes of two rows.
ROWS = 4


class Cell(NamedTuple):
    """One way to train on the mini-batch.

    padding: rows one after the other, without or with a tail of padding; or a row each, as long
    as the longest of the micro-batch or of the mini-batch.
    """

    method: str
    engine: str
    data_parallel: int
    tensor_parallel: int
    micro_batches: str
    padding: str
    order: str
    precision: str

    @property
    def layout(self):
        """What decides about process groups."""
        return f"{self.engine}_dp{self.data_parallel}_tp{self.tensor_parallel}"

    @property
    def ranks(self):
        return self.data_parallel * self.tensor_parallel

    @property
    def overrides(self):
        sizes = [f"{MEGATRON}.tensor_model_parallel_size={self.tensor_parallel}"]
        return [
            *(sizes if self.engine == "megatron" else []),
            *PADDINGS[self.engine][self.padding],
            *MICRO_BATCHES[self.micro_batches],
        ]

    @property
    def exists(self):
        """verl's FSDP has no tensor parallelism, and neither engine a tail beside a divergence.

        Megatron has no double precision; see test_invariance.py.
        """
        megatron = self.engine == "megatron"
        return (
            self.padding in PADDINGS[self.engine]
            and (megatron or self.tensor_parallel == 1)
            and not (megatron and self.precision == "float64")
            and not (self.padding == "packed_to_64" and METHODS[self.method].divergence)
        )


AXES = (
    METHODS,
    PADDINGS,
    (1, 2),
    (1, 2),
    MICRO_BATCHES,
    PADDINGS["megatron"],
    ORDERS,
    ("float32", "float64"),
)
ALL = [cell for cell in itertools.starmap(Cell, itertools.product(*AXES)) if cell.exists]


def cover(cells, seed=0):
    """Cells that have every pair of values, of any two axes, that occurs in any cell.

    Greedy: of some that are drawn, the one with most pairs still missing for its processes.
    """
    draw = random.Random(seed)
    missing = {pair for cell in cells for pair in pairs(cell)}
    chosen = []
    while missing:
        wanted = min(missing)
        having = [cell for cell in cells if wanted in pairs(cell)]
        drawn = draw.sample(having, min(30, len(having)))
        best = max(drawn, key=lambda cell: len(missing & pairs(cell)) / (1 + cell.ranks))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def pairs(cell):
    return set(itertools.combinations(enumerate(map(str, cell)), 2))
