"""``verl-ext plot``: a picture of one run, or of several: courses, pass@k, or their tasks."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUN_PICTURE = "run.png"
PICTURES = {  # option -> its file, and what it shows
    "compare": ("comparison.png", "pass@k over k, a line for each run"),
    "curves": (
        "curves.png",
        "the panels of a run and the reward of each task, a line for each run; AEPO's thresholds "
        "as a band",
    ),
    "tasks": (
        "tasks.png",
        "how much of the gradient each task gets: its share of the advantage over the steps, a "
        "panel for each run, one or several (logged with "
        "+algorithm.verl_ext.task_key=data_source under a verl_ext.* trainer)",
    ),
}
OPTIONS = tuple(f"--{name}" for name in PICTURES)


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "plot",
        help="draw a run (reward, pass@k, entropy, length, tasks), or several side by side",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN_DIR", help="directory of a run, or its metrics file")
    files = ", ".join(file for file, _ in PICTURES.values())
    add(
        "--out",
        type=Path,
        metavar="PNG",
        help=f"default: {RUN_PICTURE} in the run's directory; with {_or(OPTIONS)}: {files} here",
    )
    for name, (_, shows) in PICTURES.items():
        add(f"--{name}", action="store_true", help=shows)
    add("--labels", nargs="+", metavar="LABEL", help=f"names of the runs, with {_or(OPTIONS)}")
    add("--title", help="heading of a single run (default: its directory)")


def run(arguments: argparse.Namespace) -> int:
    """Draws and says where.

    Raises:
        ValueError: options that do not fit together, or a file that is no log of a run.
        FileNotFoundError: a run that is not there or logged nothing.
    """
    kind = _kind(arguments)
    _check(arguments, kind)
    from verl_ext import plotting, run_log

    files = [run_log.find(directory) for directory in arguments.runs]
    logs = [run_log.read(file) for file in files]
    if kind:
        draw = {
            "compare": plotting.draw_comparison,
            "curves": plotting.draw_curves,
            "tasks": plotting.draw_tasks,
        }[kind]
        out = arguments.out or Path(PICTURES[kind][0])
        draw(logs, arguments.labels or _names(files), out)
    else:
        out = arguments.out or files[0].parent / RUN_PICTURE
        plotting.draw_run(logs[0], out, arguments.title or _name(files[0]))
        print(run_log.summary(logs[0]))
    print(f"picture: {out}")
    return 0


def _kind(arguments: argparse.Namespace) -> str | None:
    """Which of PICTURES; None is the picture of a single run."""
    asked = [name for name in PICTURES if getattr(arguments, name)]
    if len(asked) > 1:
        options = " and ".join(f"--{name}" for name in asked)
        raise ValueError(f"{options} are {len(asked)} pictures: name one of them")
    return asked[0] if asked else None


def _check(arguments: argparse.Namespace, kind: str | None) -> None:
    runs = len(arguments.runs)
    if kind == "curves" and runs == 1:
        raise ValueError("--curves puts several runs side by side: leave --curves out for one run")
    if runs > 1 and not kind:
        raise ValueError(f"{runs} runs: add {_or(OPTIONS)}, or name one")
    if arguments.labels and not kind:
        raise ValueError(
            f"--labels names the runs side by side: add {_or(OPTIONS)}, or use --title"
        )
    if arguments.title and kind:
        raise ValueError(f"--title is for a single run: use --labels with --{kind}")
    if arguments.labels and len(arguments.labels) != runs:
        raise ValueError(f"{runs} runs and {len(arguments.labels)} --labels: one for each run")
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out: no such directory: {arguments.out.parent}")


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _name(file: Path) -> str:
    from verl_ext.run_log import METRICS_FILE

    return file.resolve().parent.name if file.name == METRICS_FILE else file.stem


def _names(files: Sequence[Path]) -> list[str]:
    names = [_name(file) for file in files]
    distinct = len(set(names)) == len(names)
    return names if distinct else [str(file.parent) for file in files]
