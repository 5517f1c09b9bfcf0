"""Measures the bars that need no long run, and writes them down for the benchmarks page.

    python benchmarks/page.py     # some minutes; then `make docs`

Writes docs/benchmarks.json: each ratio with its bar and command, the machine, the versions, the
date and the commit. A machine with nothing else to do, please. `make test` measures the quick ones
again and compares them with what is written.
"""

import json
import sys
from dataclasses import asdict

import divergence
import estimators
import import_time
import start_up
import torch
import tournament
from bars import Bar, verdict
from here import ROOT, here
from tqdm import tqdm

RECORD = ROOT / "docs" / "benchmarks.json"
ALL = {
    "estimators": lambda: estimators.bars(repeats=15),
    "divergence": lambda: divergence.bars(
        [(256, 32768, 64), (256, 152064, 64)], torch.bfloat16, "cpu", repeats=5
    ),
    "tournament": lambda: tournament.bars(groups=64, players=16, latency=1.0),
    "start-up": start_up.bars,
    "import time": lambda: import_time.bars(pairs=7),
}


def main() -> int:
    bars: list[Bar] = []
    for name, measure in tqdm(ALL.items(), desc="benchmarks", file=sys.stderr):
        print(f"\n== {name}")
        bars += measure()
    record = here() | {"bars": [asdict(bar) for bar in bars]}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {RECORD}")
    return verdict(bars)


if __name__ == "__main__":
    raise SystemExit(main())
