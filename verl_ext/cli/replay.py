"""``verl-ext replay``: what became NaN in a step that was stopped for it, and does it again."""

import argparse
from pathlib import Path
from typing import Any

SHOWN = 5  # rows described before they are done again


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "replay",
        help="look into a step that was stopped for NaN, and do its stage again on the CPU",
    )
    parser.add_argument("file", type=Path, help="not_finite_step_<n>_<stage>.pt of the run")
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="Hugging Face weights, such as a checkpoint's, for what a model has computed; "
        "default: those that the run began with",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the rows and does the stage again; 0 where it gives no number again, else 1."""
    from verl_ext.adapters import replay

    saved = replay.read(arguments.file)
    print(
        f"step {saved.step}: {saved.field} after the stage '{saved.stage}' is no number in "
        f"{len(saved.bad)} rows"
    )
    for key in saved.bad[:SHOWN]:
        row, place = saved.row(key), replay.where(saved, key)
        print(f"  {key}: {row.get('data_source', '')}, {len(row['responses'])} tokens", end="")
        if place is not None:
            print(f", first at token {place} (id {int(row['responses'][place])})", end="")
        print()
    print("again, on this machine's CPU:")
    results = []
    for words, is_number in replay.again(saved, arguments.model):
        print(f"  {'a number now' if is_number else 'no number again':15}  {words}")
        results.append(is_number)
    if all(results):
        print(
            "not reproduced: what the rows hold does not make it. Weights that are broken do: try "
            "those of the last checkpoint, --model PATH"
        )
    return int(all(results))
