"""The benchmarks page as Markdown, from what was recorded."""

import json
from pathlib import Path

from markup import table

RECORD = Path(__file__).resolve().parent / "benchmarks.json"
HEAD = """# Benchmarks

Ratios of two things measured side by side in one run, with the bar that we hold ourselves to.
`make test` measures the quick ones again, up to three times, and fails where a ratio stays above
the recorded one by more than its room (5 % for bytes, 15 % for the tournament and the import, 100 %
for the estimators); seconds are compared with nothing. `make benchmarks` measures all of them on
your machine.
"""
RUNS = """## Whole runs

What a method costs beside GRPO, in whole steps that alternate in one run:
`python benchmarks/step_overhead.py` and the figures on the pages of [SDPO](papers/sdpo.md),
[RLPR](papers/rlpr.md) and [QwenLong-L1.5](papers/qwenlong_l15.md). What a judge costs:
[ArenaRL](papers/arena_rl.md).
"""


def benchmarks() -> list[str]:
    """The page."""
    lines = HEAD.splitlines()
    if RECORD.exists():
        record = json.loads(RECORD.read_text(encoding="utf-8"))
        rows = [
            (bar["what"], f"{bar['ratio']:.3f}", f"{bar['most']:g}", f"`{bar['command']}`")
            for bar in record["bars"]
        ]
        versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
        lines += [
            "",
            *table(("what", "ratio", "at most", "measured by"), rows),
            "",
            f"{record['machine']}; Python {record['python']}, {versions}; {record['date']}, commit "
            f"`{record['commit']}`.",
        ]
    return [*lines, "", *RUNS.splitlines()]
