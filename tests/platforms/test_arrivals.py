"""A real vLLM engine: what a request gets does not depend on when it came and what else runs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ARRIVALS = {
    "again",
    "shuffled",
    "trickle 1",
    "trickle 2",
    "one at a time",
    "two at a time",
    "beside greedy ones",
    "seven places",
}


def generated(timeout=300):
    """The report of arrivals.py, run in a process group that is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("arrivals.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors[-6000:]
    return json.loads(output.splitlines()[-1])


@pytest.mark.run
def test_tokens_and_log_probs_are_the_same_for_every_order_of_arrival():
    report = generated()
    assert report.pop("requests") == 128
    assert report.pop("answers") > 20  # the seeds differ, and the answers with them
    assert report == {arrival: [0, 0] for arrival in ARRIVALS}
