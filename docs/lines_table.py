"""What each paper's line came to on a CPU, as Markdown, from what was recorded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markup import table

from verl_ext.text_table import duration

RECORD = Path(__file__).resolve().parent / "lines.json"
HEAD = """## What to expect

Each line as it stands below, on two CPU cores: the time that the whole command takes, and
validation before training and after it. One run each, most with another one beside it: alone
`w_reinforce` takes 5 and a half to 8 and a half minutes. With another seed, or a CPU of another
kind, the second digit changes; else none does. `python benchmarks/lines.py PAPER` does it again
on your machine.
"""
BUILT = " `+`: the toy's model was trained first."


def expected() -> Iterator[str]:
    """The section; nothing if no line was run."""
    if not RECORD.exists():
        return
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    rows = [(f"[`{name}`](#{name})", *_cells(entry)) for name, entry in record.items()]
    yield from ("", *HEAD.splitlines(), "")
    yield from table(("overlay", "time", "steps", "what", "first", "last"), rows)
    when: dict[str, set[tuple[str, str]]] = {}
    for entry in record.values():
        when.setdefault(entry["machine"], set()).add((entry["date"], entry["commit"]))
    said = "; ".join(
        f"{machine}: " + ", ".join(f"{day} (`{commit}`)" for day, commit in sorted(runs))
        for machine, runs in when.items()
    )
    built = any(entry["built"] for entry in record.values())
    yield from ("", f"{said}.{BUILT if built else ''}")


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    """Time, steps and a line for each data source."""
    curves = entry["curves"].items()
    columns = (
        [f"{source}, {label}" for source, (label, _, _) in curves],
        [f"{before:.2f}" for _, (_, before, _) in curves],
        [f"{after:.2f}" for _, (_, _, after) in curves],
    )
    time = duration(entry["seconds"]) + (" +" if entry["built"] else "")
    return (time, str(entry["steps"]), *("<br>".join(column) for column in columns))
