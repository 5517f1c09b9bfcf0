"""What our stages cost in a training step, beside verl's stock trainer in the same run.

    python benchmarks/step_overhead.py [--pairs 40] [--what NAME] [--engine dp|megatron]

One run of the toy world on the CPU. Its steps come in pairs, one by verl's ``PPOTrainerSync`` with
``grpo``, one by ``verl_ext.sync`` with what is asked for; which of the two comes first alternates.

nothing      grpo too: what the trainer itself costs
parts        ``task_norm``, the AEPO mask and the metrics of each task
sdpo_token   ``+paper=sdpo`` as an advantage, ``source=self``: a forward pass over the teacher's
             sequences more
sdpo_logits  ``+paper=sdpo``, ``source=self``: that, and one over the policy's for its likely tokens
sdpo_ema     ``+paper=sdpo`` as it is: the same with averaged weights
rlpr         ``+paper=rlpr`` without its filter: each response scored on the policy's server; the
             stock step asks the rule of the same data

All steps have the same prompts and the learning rate is 0, so neither they nor the responses'
lengths drift. A step's time is from
its beginning to the beginning of the next: logging and clean-up are part of it.

Two answers, each the median over the pairs with its 95 % interval (order statistics, so no
assumption on the distribution):

* ours / stock, of the whole steps. Two steps of a CPU run differ by more than what is looked for,
  so the interval is wide.
* the time spent in functions of ours during a step of ours, less what verl's functions take that
  they override and call, as a share of the stock step beside it.

Acceptance: the second median is at most 0.02 for ``parts``; the first at most 1.4 for
``sdpo_token``, 1.8 for ``sdpo_logits`` and 1.25 for ``rlpr``.
"""

import argparse
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from verl_ext.post_import import when_imported

TIMES = "VERL_EXT_STEP_TIMES"
WARM_UP = 2  # steps, before the first pair
SELF = "algorithm.verl_ext.teacher.source=self"
DIVERGENCE = "algorithm.verl_ext.divergence"
WHAT = {
    "nothing": ["algorithm.adv_estimator=grpo"],
    "parts": ["+paper=[task_norm,aepo]"],
    "sdpo_token": [
        "+paper=sdpo",
        SELF,
        f"{DIVERGENCE}=null",
        "algorithm.verl_ext.advantage.coef=1",
    ],
    "sdpo_logits": ["+paper=sdpo", SELF],
    "sdpo_ema": ["+paper=sdpo"],
    "rlpr": ["+paper=rlpr", "~algorithm.verl_ext.masks.std_filter"],
}


def register(_: ModuleType) -> None:
    """Registers the alternating trainer, in the processes of the run that import trainers."""
    import ray
    from omegaconf import open_dict
    from verl.trainer.ppo.v1 import PPOTrainerSync
    from verl.trainer.ppo.v1.trainer_base import register_trainer

    from verl_ext.adapters.trainer import VerlExtTrainerSync

    clock = Clock()
    clock.watch(VerlExtTrainerSync)

    class Alternating:
        """Becomes the stock trainer or ours at the beginning of each step."""

        def on_step_begin(self) -> None:
            ours = is_ours(self.global_steps)
            with open(os.environ[TIMES], "a") as file:
                file.write(json.dumps([ours, time.perf_counter(), clock.read()]) + "\n")
            self.__class__ = Ours if ours else Stock
            with open_dict(self.config):
                self.config.algorithm.adv_estimator = self.bench_estimator if ours else "grpo"
            if self.bench_switches:
                ray.get(
                    [w.__ray_call__.remote(switch, ours) for w in self.actor_rollout_wg.workers]
                )
            if self.bench_rewards:
                workers = self.agent_loop_manager.agent_loop_workers
                ray.get([w.__ray_call__.remote(switch_reward, ours) for w in workers])
            super().on_step_begin()

    @register_trainer("alternating")
    class Ours(Alternating, VerlExtTrainerSync):
        """Ours; builds the run."""

        def __init__(self, config) -> None:
            self.bench_estimator = str(config.algorithm.adv_estimator)
            self.bench_switches = bool(config.algorithm.verl_ext.get("divergence"))
            self.bench_rewards = bool(config.algorithm.verl_ext.get("group_reward"))
            super().__init__(config)

    class Stock(Alternating, PPOTrainerSync):
        """verl's own."""


def switch(process, ours: bool) -> None:
    """Gives a worker our loss or verl's, in its process of Ray's."""
    from verl.workers.utils.losses import ppo_loss

    for worker in process.worker_dict.values():
        if not hasattr(worker, "bench_loss"):
            worker.bench_loss = worker._ext_loss
            worker.verl_loss = functools.partial(ppo_loss, config=worker._ext_loss.config)
        worker._ext_loss = worker.bench_loss if ours else None
        worker.actor.set_loss_fn(worker.bench_loss if ours else worker.verl_loss)


def switch_reward(worker, ours: bool) -> None:
    """Gives a rollout worker our reward or verl's, in its process of Ray's."""
    if not hasattr(worker, "bench_reference"):
        worker.bench_reference = worker._ext_reference
    vars(worker)["_ext_reference"] = worker.bench_reference if ours else None


class Clock:
    """Seconds in our functions, without what they call in verl."""

    def __init__(self) -> None:
        self._running: list[bool] = []  # whose function each frame is: ours or not
        self._since = time.perf_counter()
        self._seconds = 0.0

    def watch(self, trainer: type) -> None:
        """Times every method of ours that the trainer has, and verl's of the same names."""
        ours = [cls for cls in trainer.__mro__ if cls.__module__.startswith("verl_ext.")]
        names = {name for cls in ours for name, value in vars(cls).items() if callable(value)}
        for cls in trainer.__mro__[:-1]:
            for name in names & set(vars(cls)) - {"__init__", "__class__"}:
                setattr(cls, name, self._timed(vars(cls)[name], cls in ours))

    def read(self) -> float:
        """Seconds so far."""
        self._turn()
        return self._seconds

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._running and self._running[-1]:
            self._seconds += now - self._since
        self._since = now

    def _timed(self, function, of_ours: bool):
        @functools.wraps(function)
        def timed(*args, **kwargs):
            self._turn()
            self._running.append(of_ours)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self._running.pop()

        return timed


def is_ours(step: int) -> bool:
    """Stock, ours, ours, stock, stock, ours, ...: each kind comes first in half of the pairs."""
    pair, place = divmod(step - WARM_UP - 1, 2)
    return (pair + place) % 2 == 1


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median: the order statistics that hold it with that probability."""
    count = len(values)
    tail, rank = 0.5**count, 0
    while tail + math.comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        tail += math.comb(count, rank) * 0.5**count
    ordered = sorted(values)
    return ordered[rank], ordered[-1 - rank]


def run(pairs: int, engine: str, what: str, folder: Path) -> list[tuple[bool, float, float]]:
    """Runs verl; returns of each step whose it was, its seconds, and those in functions of ours."""
    times = folder / "times.jsonl"
    environment = {
        **os.environ,
        TIMES: str(times),
        "VERL_USE_EXTERNAL_MODULES": "step_overhead",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", f"model_engine={engine}"),
        *WHAT[what],
        *("+scale=cpu", "algorithm.verl_ext.deterministic=false"),
        *("data.train_max_samples=16", "data.shuffle=false", "trainer.total_epochs=1000"),
        *("trainer.v1.trainer_mode=alternating", f"hydra.run.dir={folder}"),
        f"trainer.total_training_steps={WARM_UP + 2 * pairs + 1}",
        *("trainer.test_freq=-1", "trainer.val_before_train=false"),
        "actor_rollout_ref.actor.optim.lr=0",
    ]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    marks = [json.loads(line) for line in times.read_text().splitlines()]
    steps = [
        (ours, end - start, later - before)
        for (ours, start, before), (_, end, later) in pairwise(marks)
    ]
    return steps[WARM_UP:]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--what", choices=WHAT, default="nothing", help="in our steps")
    parser.add_argument("--engine", choices=("dp", "megatron"), default="dp")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps = run(arguments.pairs, arguments.engine, arguments.what, Path(folder))
    ratios, shares = [], []
    for first, second in zip(steps[::2], steps[1::2], strict=True):
        ours, stock = (first, second) if first[0] else (second, first)
        ratios.append(ours[1] / stock[1])
        shares.append(ours[2] / stock[1])
    for name, kind in (("stock", False), ("ours", True)):
        median = statistics.median(seconds for ours, seconds, _ in steps if ours is kind)
        print(f"{name:>5}: {median:.3f} s a step (median of {len(ratios)})")
    for name, values in (("ours / stock", ratios), ("in our functions / stock", shares)):
        low, high = interval(values)
        median = statistics.median(values)
        print(f"{name}: {median:.4f}, 95 % interval {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
else:  # imported by verl
    when_imported("verl.trainer.ppo.v1", register)
