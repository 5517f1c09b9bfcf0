"""What the plugin adds to `import verl`, in each of a run's dozen processes.

    python benchmarks/import_time.py [--pairs 10]

Processes with and without the plugin (verl's own switch, VERL_USE_EXTERNAL_PLUGINS=none), in turns;
CPU seconds of each, its threads and the kernel's part included, so that other work on the machine
matters little. The ratio is that of the medians, with the quartiles of the pairs' ratios beside it.

Acceptance: at most 1.05.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys

from bars import Bar, verdict

from verl_ext.text_table import aligned

MOST = 1.05


def cpu_seconds(plugins: str) -> float:
    """Of a process that imports verl."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": plugins}
    subprocess.run(
        [sys.executable, "-c", "import verl"], env=environment, check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bars(pairs: int) -> list[Bar]:
    """Prints both medians; their ratio."""
    cpu_seconds("auto")  # what both read from the disk
    measured = [(cpu_seconds("none"), cpu_seconds("auto")) for _ in range(pairs)]
    without, within = (statistics.median(column) for column in zip(*measured, strict=True))
    rows = [("import verl", "CPU s"), ("without", f"{without:.2f}"), ("with", f"{within:.2f}")]
    print("\n".join(aligned(rows, names=1)))
    if pairs > 1:
        low, middle, high = statistics.quantiles([b / a for a, b in measured], n=4)
        print(f"ratio of the pairs {middle:.3f} ({low:.3f} to {high:.3f})")
    what = "import verl with the plugin, CPU time over that without"
    return [Bar(what, within / without, MOST, "benchmarks/import_time.py")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10, help="default: %(default)s")
    return verdict(bars(parser.parse_args().pairs))


if __name__ == "__main__":
    raise SystemExit(main())
