"""``verl-ext plot``: a picture of one run, or of several: their courses, or their pass@k."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUN_PICTURE = "run.png"
COMPARISON_PICTURE = "comparison.png"
CURVES_PICTURE = "curves.png"


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "plot", help="draw a run (reward, pass@k, entropy, length), or several side by side"
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN_DIR", help="directory of a run, or its metrics file")
    add(
        "--out",
        type=Path,
        metavar="PNG",
        help=f"default: {RUN_PICTURE} in the run's directory; of several runs "
        f"{COMPARISON_PICTURE} or {CURVES_PICTURE} here",
    )
    add("--compare", action="store_true", help="pass@k over k, a line for each run")
    add("--curves", action="store_true", help="the panels of a run, a line for each run")
    add("--labels", nargs="+", metavar="LABEL", help="names of the runs, with several")
    add("--title", help="heading of a single run (default: its directory)")


def run(arguments: argparse.Namespace) -> int:
    """Draws and says where.

    Raises:
        ValueError: options that do not fit together, or a file that is no log of a run.
        FileNotFoundError: a run that is not there or logged nothing.
    """
    _check(arguments)
    from verl_ext import plotting, run_log

    files = [run_log.find(directory) for directory in arguments.runs]
    logs = [run_log.read(file) for file in files]
    if arguments.compare:
        out = arguments.out or Path(COMPARISON_PICTURE)
        plotting.draw_comparison(logs, arguments.labels or _names(files), out)
    elif arguments.curves:
        out = arguments.out or Path(CURVES_PICTURE)
        plotting.draw_curves(logs, arguments.labels or _names(files), out)
    else:
        out = arguments.out or files[0].parent / RUN_PICTURE
        plotting.draw_run(logs[0], out, arguments.title or _name(files[0]))
        print(run_log.summary(logs[0]))
    print(f"picture: {out}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    _check_kind(arguments)
    if arguments.labels and len(arguments.labels) != len(arguments.runs):
        raise ValueError(
            f"{len(arguments.runs)} runs and {len(arguments.labels)} --labels: one for each run"
        )
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out: no such directory: {arguments.out.parent}")


def _check_kind(arguments: argparse.Namespace) -> None:
    if arguments.compare and arguments.curves:
        raise ValueError("--compare and --curves are two pictures: name one of them")
    if arguments.curves and len(arguments.runs) == 1:
        raise ValueError("--curves puts several runs side by side: leave --curves out for one run")
    several = "--compare" if arguments.compare else "--curves" if arguments.curves else None
    if len(arguments.runs) > 1 and not several:
        raise ValueError(f"{len(arguments.runs)} runs: add --compare or --curves, or name one")
    if arguments.labels and not several:
        raise ValueError(
            "--labels names the runs of a comparison: add --compare or --curves, or use --title"
        )
    if arguments.title and several:
        raise ValueError(f"--title is for a single run: use --labels with {several}")


def _name(file: Path) -> str:
    from verl_ext.run_log import METRICS_FILE

    return file.resolve().parent.name if file.name == METRICS_FILE else file.stem


def _names(files: Sequence[Path]) -> list[str]:
    names = [_name(file) for file in files]
    distinct = len(set(names)) == len(names)
    return names if distinct else [str(file.parent) for file in files]
