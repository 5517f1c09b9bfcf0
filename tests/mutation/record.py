"""The record of mutation runs: docs/mutation.json.

Why a survivor is let live is written into it by hand (``why``), and kept from run to run as long as
the survivor is the same.
"""

import dataclasses
import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from mutation.mutants import Mutant
from mutation.suite import ROOT

RECORD = ROOT / "docs" / "mutation.json"
LEAST = 0.9  # of the mutants of a module that its tests kill


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a module's mutants.

    Attributes:
        possible: mutants that the operators make.
        tried: mutants that were run, all of them or a draw.
        timeouts: of the killed, those whose tests did not end.
        survivors: those that no test noticed.
    """

    possible: int
    tried: int
    timeouts: int
    survivors: Sequence[Mutant]


def read() -> dict[str, Any]:
    """Module -> its entry."""
    return dict(json.loads(RECORD.read_text(encoding="utf-8"))) if RECORD.exists() else {}


def write(module: str, outcome: Outcome, order: Sequence[str]) -> None:
    """Puts a module's outcome into the record, and drops modules that are no more."""
    entries = read()
    entries[module] = entry(outcome, whys(entries.get(module, {})))
    kept = {name: entries[name] for name in order if name in entries}
    RECORD.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def whys(entry: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Diff of a recorded survivor -> the reason that is given for it."""
    return {tuple(each["diff"]): each["why"] for each in entry.get("survivors", ())}


def lived(module: str) -> set[tuple[int, tuple[str, ...]]]:
    """Line and diff of a module's recorded survivors."""
    return {(each["line"], tuple(each["diff"])) for each in read()[module]["survivors"]}


def entry(outcome: Outcome, reasons: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """An outcome as it is recorded, with the reasons that were given before."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "possible": outcome.possible,
        "mutants": outcome.tried,
        "killed": outcome.tried - len(outcome.survivors),
        "timeouts": outcome.timeouts,
        "survivors": [
            {"line": each.line, "diff": list(each.diff), "why": reasons.get(each.diff, "")}
            for each in outcome.survivors
        ],
    }
