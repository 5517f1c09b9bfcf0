"""Time of our estimators against verl's GRPO, on the same batch and in the same run.

    python benchmarks/estimators.py [--repeats 15]

Acceptance: the ratio of the medians, ours / GRPO, is at most 1.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from bars import Bar, verdict
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from verl_ext.advantage_fns.w_reinforce import w_reinforce

ROWS, LENGTH, GROUP = 4096, 4096, 8


def batch() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Ragged responses with outcomes of 0 and 1 at their ends, in 512 groups of 8."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, LENGTH + 1, (ROWS,), generator=generator)
    mask = (torch.arange(LENGTH) < lengths.unsqueeze(-1)).long()
    rewards = torch.zeros(ROWS, LENGTH)
    outcomes = torch.randint(0, 2, (ROWS,), generator=generator).float()
    rewards[torch.arange(ROWS), lengths - 1] = outcomes
    groups = np.array([f"prompt-{row // GROUP}" for row in range(ROWS)], dtype=object)
    return rewards, mask, groups


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bars(repeats: int) -> list[Bar]:
    """Prints a table; the ratio of the medians."""
    rewards, mask, groups = batch()
    calls = {
        "verl grpo": lambda: compute_grpo_outcome_advantage(rewards, mask, groups),
        "w_reinforce": lambda: w_reinforce(rewards, mask),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first call pays for allocation
    for _ in range(repeats):
        for name, call in calls.items():  # interleaved: both see the same machine
            times[name].append(seconds(call))
    print(
        f"{ROWS} x {LENGTH}, {ROWS // GROUP} groups of {GROUP}, {repeats} repeats interleaved, "
        f"{torch.get_num_threads()} threads, medians"
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        spread = f"{min(times[name]) * 1e3:.1f} to {max(times[name]) * 1e3:.1f}"
        print(f"{name:<12} {median * 1e3:8.1f} ms  ({spread})")
    ratio = medians["w_reinforce"] / medians["verl grpo"]
    return [Bar("W-REINFORCE, time over verl's GRPO", ratio, 1.0, "benchmarks/estimators.py")]


def main() -> int:
    parser = argparse.ArgumentParser(description="w_reinforce against verl's GRPO")
    parser.add_argument("--repeats", type=int, default=15, help="default: %(default)s")
    return verdict(bars(parser.parse_args().repeats))


if __name__ == "__main__":
    raise SystemExit(main())
