"""A rollout or reward worker that is gone stops the run; verl 0.9.1 waits for it for ever."""

import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import ray
from ray.exceptions import RayActorError

from verl_ext.adapters.trainer.stage import Stage

EVERY_S = 5.0


class WorkerGoneError(RuntimeError):
    """A worker's process has ended: killed for want of memory, by hand, or with its node."""


class Alive(Stage):
    """Asks the workers that nobody waits for whether they are there, while the trainer waits."""

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        watch(buffer, self._ext_workers)
        return buffer

    def _ext_workers(self) -> Mapping[str, Any]:
        """Handles by what a person calls them; they are there once training begins."""
        rollout = getattr(self.agent_loop_manager, "agent_loop_workers", None) or []
        manager = getattr(self, "reward_loop_manager", None)
        reward = getattr(manager, "reward_loop_workers", None) or []
        named = {f"rollout worker {n}": worker for n, worker in enumerate(rollout)}
        return named | {f"reward worker {n}": worker for n, worker in enumerate(reward)}


def watch(
    buffer: Any,
    workers: Callable[[], Mapping[str, Any]],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Lets a replay buffer raise :class:`WorkerGoneError`, at most some seconds after the fact.

    A worker that is merely busy answers late and is not asked again before it has.

    Args:
        buffer: verl's, which looks into the queue several times a second while it waits.
        workers: gives Ray's handles.
        clock: seconds.
    """
    look = buffer._sync_metadata_from_transfer_queue
    asked: dict[str, Any] = {}
    last = clock()

    @wraps(look)
    def look_and_ask() -> None:
        nonlocal last
        look()
        if clock() - last < EVERY_S:
            return
        last = clock()
        for name, worker in workers().items():
            if name in asked and not ray.wait([asked[name]], timeout=0)[0]:
                continue
            try:
                if name in asked:
                    ray.get(asked[name])
            except RayActorError as error:
                first = " ".join(str(error).split())
                raise WorkerGoneError(
                    f"{name} is gone, and the responses it was to bring with it: {first} "
                    "Out of memory? See 'killed' in verl.log and in the kernel's log"
                ) from error
            asked[name] = worker.__ray_ready__.remote()

    buffer._sync_metadata_from_transfer_queue = look_and_ask
