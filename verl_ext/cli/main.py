"""``verl-ext SUBCOMMAND``: what one types beside verl's own command."""

import argparse
import importlib
import sys
from collections.abc import Sequence

# A module of this package each, with add_parser(subparsers) and run(args) -> exit status.
COMMANDS = ("list", "doctor", "toy", "plot")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Only its own module is imported, so ``doctor`` still runs where another one cannot be.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit status: 0, or 2 where the arguments make no sense.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = arguments[0] if arguments and arguments[0] in COMMANDS else None
    parser = argparse.ArgumentParser(
        prog="verl-ext", description="Recent post-training papers as plugins for verl."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="SUBCOMMAND")
    for name in COMMANDS if chosen is None else [chosen]:
        importlib.import_module(f"verl_ext.cli.{name}").add_parser(subparsers)
    args = parser.parse_args(arguments)
    status: int = importlib.import_module(f"verl_ext.cli.{args.command}").run(args)
    return status
