"""The command ``verl-ext``: a table of subcommands, each a module.

A module has ``add_parser(subparsers)`` and ``run(arguments) -> exit status``, and imports what is
heavy (torch, verl, Ray, matplotlib) only when it runs.
"""

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType

from verl_ext.cli import convert, doctor, judge, plot, replay, toy
from verl_ext.cli import list as list_command  # the command is `list`; the builtin stays itself
from verl_ext.suggest import nearest

COMMANDS: dict[str, ModuleType] = {
    "list": list_command,
    "doctor": doctor,
    "toy": toy,
    "convert": convert,
    "plot": plot,
    "judge": judge,
    "replay": replay,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        argv: arguments after the program's name; those of the process if None.

    Returns:
        The exit status: 2 where the user asked for something that cannot be, with one line on
        stderr that says what.
    """
    arguments = parser().parse_args(argv)
    try:
        return int(COMMANDS[arguments.command].run(arguments))
    except (ValueError, FileNotFoundError) as error:
        return _refuse(arguments.command, str(error))
    except ModuleNotFoundError as error:
        if (error.name or "verl_ext").startswith("verl_ext"):
            raise  # a fault of ours, not of the installation
        extra = "judge" if arguments.command == "judge" else "verl"
        return _refuse(
            arguments.command, f"{error.name} is not installed: pip install 'verl-ext[{extra}]'"
        )


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    root = _Parser(prog="verl-ext", description="Recent post-training papers as plugins for verl.")
    subparsers = root.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    for module in COMMANDS.values():
        module.add_parser(subparsers)
    return root


class _Parser(argparse.ArgumentParser):
    def _check_value(self, action: argparse.Action, value: str) -> None:
        if action.dest == "command" and value not in COMMANDS:
            self.error(
                f"no command '{value}': did you mean '{nearest(value, COMMANDS)}'? "
                f"There are: {', '.join(COMMANDS)}"
            )
        super()._check_value(action, value)


def _refuse(command: str, reason: str) -> int:
    print(f"verl-ext {command}: {' '.join(reason.split())}", file=sys.stderr)
    return 2
