"""The capability matrix as Markdown, from what the record says."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from markup import escaped, table

RECORD = Path(__file__).resolve().parent / "capability.json"
ENGINES = {"dp": "FSDP2", "megatron": "Megatron"}
# Columns: trainer mode and outputs of a session, as the cells' names end.
KINDS = ("sync", "colocate_async", "separate_async", "sync-two_outputs")
HEAD = """# What runs with what

Each cell is a whole run on CPU cores: two steps, and a run that is resumed after the first of them.
*Bit for bit*: the resumed run's second step equals that of the first in every metric that does not
measure time. *Goes on*: it trains on; under the async modes which responses are in a batch is a
matter of time, so no two runs are equal. *two outputs*: an agent loop cuts each session into two
rows of the batch. A refused cell says why, below; all but those of two outputs before anything is
loaded.

`make test-matrix` runs and records all of them, `make test-matrix CELLS="opd and megatron"` some;
`make test` fails where a cell is missing, or its configuration has changed since; and it runs some
again: every pair of method, engine, mode, outputs and resume, where one method stands for those
that are the same code (`tests/matrix/cells.py`).
"""
Entries = Mapping[str, Mapping[str, str]]


def capability(methods: list[str]) -> list[str]:
    """The page.

    Args:
        methods: the rows.
    """
    entries: Entries = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    columns = [(engine, kind) for engine in ENGINES for kind in KINDS]
    heads = ("method", *(_head(*column) for column in columns))
    rows = [
        (f"`{name}`", *(_cell(entries.get("-".join((name, *column)))) for column in columns))
        for name in methods
    ]
    return [*HEAD.splitlines(), "", *table(heads, rows), "", *_refusals(entries), *_dates(entries)]


def _head(engine: str, kind: str) -> str:
    mode, _, outputs = kind.partition("-")
    return f"{ENGINES[engine]} `{mode}`" + (", two outputs" if outputs else "")


def _cell(entry: Mapping[str, str] | None) -> str:
    if entry is None:
        return "-"
    return "refused" if "refused" in entry else entry["resume"]


def _refusals(entries: Entries) -> Iterator[str]:
    said: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if "refused" in entry:
            said.setdefault(entry["refused"], []).append(f"`{name}`")
    if said:
        yield from ("## Refused", "")
    for reason, cells in said.items():
        yield from (f"{', '.join(cells)}: {escaped(reason)}", "")


def _dates(entries: Entries) -> Iterator[str]:
    ran = [(name, entry) for name, entry in entries.items() if "refused" not in entry]
    if ran:
        yield from ("## When", "")
        rows = [(f"`{name}`", entry["date"], f"`{entry['commit']}`") for name, entry in ran]
        yield from table(("cell", "date", "commit"), rows)
