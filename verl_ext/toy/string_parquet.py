"""The string task as the two parquet files that verl reads.

Training rows use the 13 training functions; validation rows come twice per level, once from these
(data source ``string_composition``) and once from the 12 held-out ones
(``string_composition_held_out``), so verl's validation reports both. In stage 1 all 25 functions
serve for both files, their definitions stand in the prompt, and there is nothing to hold out.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from verl_ext.data.parquet import verl_schema, write_together
from verl_ext.toy.string_expressions import Expr
from verl_ext.toy.string_programs import Program, ProgramOptions, function_sets, programs
from verl_ext.toy.string_prompts import DEFINITIONS, program_text, prompt

DATA_SOURCE = "string_composition"
HELD_OUT = "string_composition_held_out"

SCHEMA = verl_schema(
    {
        "index": pa.int64(),
        "level": pa.int64(),
        "split": pa.string(),
        "functions": pa.string(),
        "program": pa.string(),
        "input": pa.string(),
    }
)


@dataclass(frozen=True)
class Layout:
    """What the rows are made of.

    Attributes:
        stage: 2 shows names only and holds functions out; 1 shows definitions and uses all.
        avoid_twins: keep twins of training functions out of the held-out ones.
        definitions: what the prompt defines in stage 1: the functions "used" or "all".
        options: which programs to keep.

    Raises:
        ValueError: a value that is not listed here, or ``avoid_twins`` or ``definitions`` in a
            stage where it has no effect.
    """

    stage: int = 2
    avoid_twins: bool = False
    definitions: str | None = None
    options: ProgramOptions = field(default_factory=ProgramOptions)

    def __post_init__(self) -> None:
        if self.stage not in (1, 2):
            raise ValueError(f"stage must be 1 or 2, got {self.stage!r}")
        if self.stage == 1 and self.avoid_twins:
            raise ValueError("avoid_twins has no effect in stage 1, which holds no function out")
        if self.stage == 2 and self.definitions is not None:
            raise ValueError("definitions has no effect in stage 2, which shows names only")
        if self.definitions not in (None, *DEFINITIONS[1:]):
            raise ValueError(f"definitions must be used or all, got {self.definitions!r}")

    @property
    def shown(self) -> str:
        """What the prompt defines: "none", "used" or "all"."""
        return "none" if self.stage == 2 else self.definitions or "used"


def write_parquet(
    out_dir: str | os.PathLike[str],
    *,
    train_rows: int = 50_000,
    val_rows_per_level: int = 256,
    train_levels: Sequence[int] = (1, 2),
    levels: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8),
    layout: Layout | None = None,
    seed: int = 42,
) -> dict[str, Path]:
    """Writes ``train.parquet`` and ``val.parquet`` and shows a progress bar.

    Validation is drawn first, so it is the same whatever the amount of training data, and its
    problems (an expression with the input it uses) are kept out of training. Not its expressions:
    level 1 has few with ``x``, and validation would take them all. Each level has its own stream of
    random numbers. Both files are complete before either replaces its predecessor.

    Args:
        out_dir: the folder; made if it is not there, and files of these names are replaced.
        train_rows: rows of train.parquet, dealt evenly to the levels, the rest to the first ones,
            level by level (verl shuffles).
        val_rows_per_level: rows of val.parquet for each level and each set of functions.
        train_levels: levels of the training rows (the authors: 1, 2, or 1 and 2).
        levels: levels of the validation rows.
        layout: what the rows are made of; stage 2 as the authors have it by default.
        seed: fixes both files, together with the other arguments.

    Returns:
        The two paths, under "train" and "val".

    Raises:
        ValueError: a count or level below 1, no or repeated levels; or, before anything is
            written, what :func:`~verl_ext.toy.string_programs.programs` raises.

    Deviations: the authors test on held-out functions only, and do not keep those problems out of
        training that hold no function.
    """
    for name, given in {"train_rows": train_rows, "val_rows_per_level": val_rows_per_level}.items():
        if given < 1:
            raise ValueError(f"{name} must be >= 1, got {given}")
    for name, chosen in {"train_levels": train_levels, "levels": levels}.items():
        if not chosen or min(chosen) < 1 or len(set(chosen)) < len(chosen):
            raise ValueError(f"{name} must be distinct levels >= 1, got {list(chosen)}")
    layout = layout or Layout()
    per_level, rest = divmod(train_rows, len(train_levels))
    counts = {level: per_level + (i < rest) for i, level in enumerate(train_levels)}
    tested = ("all",) if layout.stage == 1 else ("train", "eval")
    plans = {
        "val": [(name, level, val_rows_per_level) for name in tested for level in levels],
        "train": [(tested[0], level, counts[level]) for level in train_levels],
    }
    total = sum(count for plan in plans.values() for _, _, count in plan)
    with tqdm(total=total, desc="string_composition", unit="program", disable=None) as bar:
        val = _draw("val", plans["val"], layout, seed, frozenset(), bar)
        taken = frozenset(program.problem for _, _, program in val)
        train = _draw("train", plans["train"], layout, seed, taken, bar)
    rows = {
        split: [_row(split, index, layout, *item) for index, item in enumerate(drawn)]
        for split, drawn in {"train": train, "val": val}.items()
    }
    return write_together(Path(out_dir), rows, SCHEMA)


def _draw(
    split: str,
    plan: list[tuple[str, int, int]],
    layout: Layout,
    seed: int,
    taken: frozenset[tuple[Expr, str | None]],
    bar: Any,
) -> list[tuple[str, int, Program]]:
    sets = function_sets(avoid_twins=layout.avoid_twins)
    drawn = []
    for name, level, count in plan:
        rng = random.Random(f"{seed}/{split}/{name}/{level}")  # a string seed is hashed by SHA-512
        stream = programs(rng, level, sets[name], options=layout.options, taken=taken)
        for program in islice(stream, count):
            drawn.append((name, level, program))
            bar.update()
    return drawn


def _row(
    split: str, index: int, layout: Layout, name: str, level: int, program: Program
) -> dict[str, Any]:
    return {
        "data_source": HELD_OUT if name == "eval" else DATA_SOURCE,
        "prompt": [{"role": "user", "content": prompt(program, definitions=layout.shown)}],
        "ability": "reasoning",
        "reward_model": {"style": "rule", "ground_truth": program.output},
        "extra_info": {
            "index": index,
            "level": level,
            "split": split,
            "functions": name,
            "program": program_text(program),
            "input": program.text,
        },
    }
