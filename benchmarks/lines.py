"""Trains every paper by the line of the papers' page, as it stands there: minutes, before, after.

    python benchmarks/lines.py [--into DIR] [PAPER ...]     # two hours for all; then `make docs`

Writes docs/lines.json: what the papers' page tells a newcomer to expect. The runs are kept below
DIR, one folder each with all that it printed in `out.log`.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from here import ROOT, here
from tqdm import tqdm

from verl_ext import run_log
from verl_ext.papers import PAPERS

RECORD = ROOT / "docs" / "lines.json"
LINES = {name: paper.line for name, paper in PAPERS.items() if "+scale=cpu" in paper.line}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=ROOT / "outputs" / "lines")
    parser.add_argument("papers", nargs="*", metavar="PAPER", help=", ".join(LINES))
    options = parser.parse_args()
    unknown = set(options.papers) - set(LINES)
    if unknown:
        parser.error(f"no line for a CPU: {', '.join(sorted(unknown))}")
    for name in tqdm(options.papers or LINES, desc="papers", file=sys.stderr):
        write(name, measured(LINES[name], options.into / name))
    return 0


def measured(line: str, folder: Path) -> dict[str, Any]:
    """Runs a line in a new folder: seconds, whether it trained a toy model first, and the rest.

    Raises:
        subprocess.CalledProcessError: the run failed; why is in ``folder``/out.log.
    """
    folder.mkdir(parents=True)
    start, printed = time.monotonic(), folder / "out.log"
    with open(printed, "w") as file:
        command = [sys.executable, *shlex.split(line)[1:]]
        subprocess.run(command, cwd=folder, stdout=file, stderr=file, check=True)
    seconds = round(time.monotonic() - start)
    built = "toy world: warm-up" in printed.read_text(encoding="utf-8")  # its progress bar
    return {"seconds": seconds, "built": built, **outcome(folder)}


def outcome(folder: Path) -> dict[str, Any]:
    """Steps and, by data source, the first curve of its validations: before and after.

    The training reward of a run that has no validation before training.
    """
    log = run_log.read(run_log.find(folder))
    curves = {}
    for source in log.data_sources:
        label, curve = next(iter(log.validation(source).items()))
        if curve.steps[0] == 0:
            curves[source] = [label, curve.values[0], curve.values[-1]]
    if not curves:
        reward = log.series[run_log.REWARD].values
        curves["training"] = ["mean reward", reward[0], reward[-1]]
    return {"steps": log.last_step, "curves": curves}


def write(name: str, found: dict[str, Any]) -> None:
    """Adds a paper's figures to the record."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    record[name] = found | here()
    ordered = {name: record[name] for name in LINES if name in record}
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
