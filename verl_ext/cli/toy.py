"""``verl-ext toy``: data of the embedded tasks, made on the spot.

Each world is one entry of WORLDS: a function that adds its parser, and one that runs it.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Adds ``toy`` and its worlds to the command.

    Args:
        subparsers: what argparse's ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser("toy", help="make the data of a toy task")
    worlds = parser.add_subparsers(dest="world", required=True, metavar="WORLD")
    for add_world, _ in WORLDS.values():
        add_world(worlds)


def run(args: argparse.Namespace) -> int:
    """Runs the world that was asked for.

    Args:
        args: as parsed with :func:`add_parser`.

    Returns:
        The exit status: 0, or 2 where the arguments make no sense together.
    """
    return WORLDS[args.world][1](args)


def _add_string_composition(worlds: Any) -> None:
    add = worlds.add_parser(
        "string_composition", help="programs of nested string functions (RL-Compositionality)"
    ).add_argument
    add("--out", required=True, metavar="DIR", help="folder for train.parquet and val.parquet")
    add("--train-rows", type=int, default=50_000, metavar="N", help="default: %(default)s")
    add("--train-levels", type=int, nargs="+", default=[1, 2], metavar="L", help="default: 1 2")
    add("--val-rows-per-level", type=int, default=256, metavar="N", help="default: %(default)s")
    add("--levels", type=int, nargs="+", default=[*range(1, 9)], metavar="L", help="default: 1..8")
    add("--stage", type=int, choices=(1, 2), default=2, help="1: with definitions; 2: names only")
    add("--definitions", choices=("used", "all"), help="what stage 1 defines (default: used)")
    add("--require-input", action="store_true", help="drop programs that ignore their input")
    add("--avoid-twins", action="store_true", help="hold out no twin of a training function")
    add("--keep-duplicates", action="store_true", help="draw an expression more than once")
    add("--max-length", type=int, default=2048, metavar="N", help="longest value; 0: no limit")
    add("--seed", type=int, default=42, help="default: %(default)s")


def _run_string_composition(args: argparse.Namespace) -> int:
    # Here, not above: pyarrow comes with verl, and the command must start without either.
    from verl_ext.toy.string_parquet import Layout, write_parquet
    from verl_ext.toy.string_programs import ProgramOptions

    try:
        options = ProgramOptions(
            require_input=args.require_input,
            unique=not args.keep_duplicates,
            max_length=args.max_length or None,
        )
        paths = write_parquet(
            args.out,
            train_rows=args.train_rows,
            val_rows_per_level=args.val_rows_per_level,
            train_levels=args.train_levels,
            levels=args.levels,
            layout=Layout(args.stage, args.avoid_twins, args.definitions, options),
            seed=args.seed,
        )
    except ValueError as error:
        print(f"verl-ext toy string_composition: {error}", file=sys.stderr)
        return 2
    for split, path in paths.items():
        print(f"{split}: {path}")
    return 0


def _add_compact(worlds: Any) -> None:
    parser = worlds.add_parser("compact", help="the tiny model and task of +task=toy")
    parser.add_argument("--variant", default="w_reinforce", help="default: %(default)s")


def _run_compact(args: argparse.Namespace) -> int:
    from verl_ext.toy.world import ensure

    for part, path in ensure(args.variant).parts.items():
        print(f"{part}: {path}")
    return 0


WORLDS: dict[str, tuple[Callable[[Any], None], Callable[[argparse.Namespace], int]]] = {
    "compact": (_add_compact, _run_compact),
    "string_composition": (_add_string_composition, _run_string_composition),
}
