"""Python's hashes differ from process to process: does what a program prints?"""

import os
import subprocess
import sys


def same_output(code):
    """Whether a program prints something, and the same, under two seeds of the hashes."""
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    return first == second != ""
