"""``verl-ext convert``: files that a user has on disk become the parquet files of a task.

Each kind of data is one entry of DATA: a function that adds its parser, and one that runs it.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_ext.data.convert import Report
    from verl_ext.data.tasks import Task


def add_parser(subparsers: Any) -> None:
    """Adds ``convert`` and its kinds of data to the command.

    Args:
        subparsers: what argparse's ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser("convert", help="make a task's parquet files of public files")
    kinds = parser.add_subparsers(dest="data", required=True, metavar="DATA")
    for add_kind, _ in DATA.values():
        add_kind(kinds)


def run(args: argparse.Namespace) -> int:
    """Converts the kind of data that was asked for.

    Args:
        args: as parsed with :func:`add_parser`.

    Returns:
        The exit status, 0.

    Raises:
        FileNotFoundError: a path is not there.
        ValueError: the files do not hold what they should; the message names file and line.
    """
    return DATA[args.data][1](args)


def _add_shared(name: str, summary: str, kinds: Any) -> Callable[..., Any]:
    add: Callable[..., Any] = kinds.add_parser(name, help=summary).add_argument
    add("--from", dest="paths", action="append", required=True, type=Path, metavar="PATH",
        help="a folder or file of the data set; may be repeated")  # fmt: skip
    looks = "" if name == "qa" else f", where +task={name} looks"
    add("--out", type=Path, metavar="DIR", help=f"default: ~/data/{name}{looks}")
    add("--leaks", choices=("drop", "error", "keep"), default="drop",
        help="training questions that stand in test too (default: %(default)s)")  # fmt: skip
    add("--drop-unreadable", action="store_true", help="leave out rows without a readable answer")
    add("--instruction", metavar="TEXT", help="below each question, instead of the task's own")
    return add


def _add_own(name: str, summary: str, kinds: Any) -> None:
    add = _add_shared(name, summary, kinds)
    add("--question", default="question", metavar="COLUMN", help="default: %(default)s")
    add("--answer", default="answer", metavar="COLUMN",
        help="of the reference answers (default: %(default)s)")  # fmt: skip
    add("--data-source", default="qa", metavar="NAME",
        help="verl's name of the rows, for rewards and metrics (default: %(default)s)")  # fmt: skip


# The imports here, not above: pyarrow comes with verl, and the command must start without either.


def _run_public(args: argparse.Namespace) -> int:
    from verl_ext.data.tasks import TASKS

    return _convert(TASKS[args.data], args)


def _run_own(args: argparse.Namespace) -> int:
    from verl_ext.data.tasks import question_answer

    return _convert(question_answer(args.question, args.answer, args.data_source), args)


def _convert(task: "Task", args: argparse.Namespace) -> int:
    from verl_ext.data.convert import convert
    from verl_ext.data.locations import default_folder

    report = convert(
        task,
        [path.expanduser() for path in args.paths],
        (args.out or default_folder(args.data)).expanduser(),
        leaks=args.leaks,
        drop_unreadable=args.drop_unreadable,
        instruction=args.instruction,
    )
    print("\n".join(summary(report, leaks=args.leaks)))
    return 0


def summary(report: "Report", *, leaks: str) -> list[str]:
    """Returns the table of the splits, and a line for everything that was not converted.

    Args:
        report: what :func:`~verl_ext.data.convert.convert` returned.
        leaks: what was done with training questions that stand in test too.
    """
    lines = [f"{'split':<6} {'rows':>7} {'dropped':>8} {'longest prompt':>20}  file"]
    for name, split in report.splits.items():
        dropped = len(split.unreadable) + (split.leaked if leaks == "drop" else 0)
        longest = f"{split.longest_prompt:,} characters"
        lines.append(f"{name:<6} {len(split.rows):>7} {dropped:>8} {longest:>20}  {split.path}")
    for name, split in report.splits.items():
        if split.leaked:
            done = "dropped from" if leaks == "drop" else "KEPT in"
            lines.append(f"{split.leaked} question(s) of train stand in test too: {done} train")
        if split.repeated:
            lines.append(f"{split.repeated} row(s) of {name} repeat a question of {name}: kept")
        if split.unreadable:
            lines.append(f"{len(split.unreadable)} unreadable row(s) of {name}, the first:")
            lines.append(f"  {split.unreadable[0]}")
    if len(report.splits) == 1:
        lines.append("the other split was not among the files: only this one is written")
    if report.left_out:
        names = ", ".join(str(path) for path in report.left_out[:5])
        more = f" and {len(report.left_out) - 5} more" if len(report.left_out) > 5 else ""
        lines.append(f"left out, neither train nor test by their names: {names}{more}")
    return lines


def _public(
    name: str, summary: str
) -> tuple[Callable[[Any], Any], Callable[[argparse.Namespace], int]]:
    return partial(_add_shared, name, summary), _run_public


DATA: dict[str, tuple[Callable[[Any], Any], Callable[[argparse.Namespace], int]]] = {
    "gsm8k": _public("gsm8k", "grade-school word problems: JSONL, or parquet of openai/gsm8k"),
    "math": _public("math", "Hendrycks MATH: its folder of JSON files, or a hub mirror"),
    "qa": (
        partial(_add_own, "qa", "questions with reference answers of your own: JSONL or parquet"),
        _run_own,
    ),
}
