"""``verl-ext plot``: a picture of a run, or of several beside each other."""

import argparse
import sys
from pathlib import Path
from typing import Any

from verl_ext import run_log


def add_parser(subparsers: Any) -> None:
    """Adds ``plot`` to the command.

    Args:
        subparsers: what argparse's ``add_subparsers`` returned.
    """
    parser = subparsers.add_parser(
        "plot",
        help="draw a run: reward, pass@k, entropy, response length",
        description="Draws what a run logged with trainer.logger=[...,file].",
    )
    parser.add_argument("run_dir", nargs="?", type=Path, metavar="RUN_DIR", help="one run")
    parser.add_argument(
        "--compare", nargs="+", type=Path, metavar="RUN_DIR", help="pass@k curves of several runs"
    )
    parser.add_argument("--labels", nargs="+", metavar="NAME", help="one for each compared run")
    parser.add_argument(
        "--out", type=Path, metavar="PNG", help="default: RUN_DIR/run.png, or pass_at_k.png here"
    )


def run(args: argparse.Namespace) -> int:
    """Draws, and says on stdout where, and what was not logged.

    Args:
        args: as parsed with :func:`add_parser`.

    Returns:
        The exit status: 0, or 2 where there is nothing to draw or the arguments do not fit.
    """
    try:
        if (args.run_dir is None) == (args.compare is None):
            raise ValueError("give either one RUN_DIR or --compare RUN_DIR RUN_DIR ...")
        if args.labels and len(args.labels) != len(args.compare or []):
            raise ValueError(
                f"--labels names {len(args.labels)} runs, --compare {len(args.compare or [])}"
            )
        if args.out is not None and args.out.suffix != ".png":
            raise ValueError(f"--out must end in .png, got {args.out}")
        if args.compare is None:
            _plot_run(args.run_dir, args.out)
        else:
            _compare(args.compare, args.labels, args.out or Path("pass_at_k.png"))
    except ValueError as error:
        print(f"verl-ext plot: {error}", file=sys.stderr)
        return 2
    return 0


def _plot_run(run_dir: Path, out: Path | None) -> None:
    from verl_ext import plotting

    log = _newest(run_dir)
    if out is None:
        out = (run_dir if run_dir.is_dir() else run_dir.parent) / "run.png"
    missing = plotting.draw_run(log, _with_folder(out))
    print(run_log.summary(log))
    _report(missing, out)


def _compare(run_dirs: list[Path], labels: list[str] | None, out: Path) -> None:
    from verl_ext import plotting

    logs = [_newest(run_dir) for run_dir in run_dirs]
    names = labels or [log.name for log in logs]
    if len(set(names)) < len(names):
        raise ValueError(
            f"two runs are called the same ({', '.join(names)}): tell them apart with --labels"
        )
    _report(plotting.draw_comparison(dict(zip(names, logs, strict=True)), _with_folder(out)), out)


def _newest(run_dir: Path) -> run_log.RunLog:
    newest, *older = run_log.find(run_dir)
    if older:
        print(f"{run_dir} holds {len(older) + 1} runs; this is the newest: {newest}")
    log = run_log.read(newest)
    if log.cut_short:
        print(f"{newest}: the last line is incomplete (still running, or killed) and left out")
    return log


def _with_folder(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _report(missing: list[str], out: Path) -> None:
    for sentence in missing:
        print(f"left out: {sentence}")
    print(f"picture: {out}")
