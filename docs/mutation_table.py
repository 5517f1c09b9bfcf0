"""The mutation page as Markdown, from what was recorded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markup import escaped, table

RECORD = Path(__file__).resolve().parent / "mutation.json"
HEAD = """# Mutants

Would a test notice if a formula were wrong? `make test-mutation` changes the modules of formulas,
one place at a time (a sign, a bound, a number, a branch that is never taken, an argument left out,
`min` for `max`, a missing `detach`), and runs the tests that reach the place. Killed: one of them
fails, or does not end. Texts of errors, docstrings and types are not changed. Of a module with many
mutants a seeded draw is run: *of* says how many there are. A property has a dozen examples at most.

`make test-mutation MODULES="verl_ext.losses verl_ext.metrics.ess"` runs some; a module is named by
the front of its name. `MODULES="--again verl_ext.losses"` runs what has survived, after a new test.
"""
Entries = Mapping[str, Mapping[str, Any]]


def mutation() -> list[str]:
    """The page."""
    entries: Entries = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    rows = [
        (
            f"`{name.removeprefix('verl_ext.')}`",
            str(entry["mutants"]),
            str(entry["possible"]),
            str(entry["killed"]),
            f"{100 * entry['killed'] / max(entry['mutants'], 1):.0f} %",
            entry["date"],
            f"`{entry['commit']}`",
        )
        for name, entry in entries.items()
    ]
    tried, killed = (sum(entry[key] for entry in entries.values()) for key in ("mutants", "killed"))
    heads = ("module", "mutants", "of", "killed", "share", "date", "commit")
    total = f"In all {killed} of {tried} are killed. What survives, and why that is no gap:"
    return [*HEAD.splitlines(), "", *table(heads, rows), "", "## Survivors", "", total, "",
            *table(("module", "mutant", "why"), _survivors(entries))]  # fmt: skip


def _survivors(entries: Entries) -> list[tuple[str, str, str]]:
    return [
        (
            f"`{name.removeprefix('verl_ext.')}`",
            "<br>".join(f"`{escaped(line)}`" for line in survivor["diff"]),
            escaped(survivor["why"]),
        )
        for name, entry in entries.items()
        for survivor in entry["survivors"]
    ]
