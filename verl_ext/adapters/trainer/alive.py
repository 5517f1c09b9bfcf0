"""A worker or server that is gone stops the run by its name.

verl 0.9.1 waits for ever for a rollout worker that is gone. Where the engine of a policy's server
is dead, it counts the prompts as failed, and says at last that failed prompts can be replaced.
"""

import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from verl_ext.adapters.engine_trouble import engine_trouble
from verl_ext.adapters.trainer.stage import Stage

EVERY_S, PATIENCE_S = 5.0, 30.0


class WorkerGoneError(RuntimeError):
    """A process of the run has ended: killed for want of memory, by hand, or with its node."""


class Alive(Stage):
    """Asks those that nobody waits for whether they are there, while the trainer waits."""

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        watch(buffer, self._ext_asked)
        return buffer

    def _ext_asked(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Who is to be asked, as a person calls it, and the question; all are there in training."""
        rollout = getattr(self.agent_loop_manager, "agent_loop_workers", None) or []
        reward = getattr(getattr(self, "reward_loop_manager", None), "reward_loop_workers", None)
        for kind, workers in (("rollout", rollout), ("reward", reward or [])):
            for number, worker in enumerate(workers):
                yield f"{kind} worker {number}", worker.__ray_ready__.remote
        managers = (self.llm_server_manager, getattr(self, "standalone_server_manager", None))
        servers = [one for each in managers for one in getattr(each, "server_handles", None) or []]
        for number, server in enumerate(servers):
            yield f"policy server {number}", _about_engine(server)


def _about_engine(server: Any) -> Callable[[], Any]:
    return lambda: server.__ray_call__.remote(engine_trouble)


Asked = Callable[[], Iterator[tuple[str, Callable[[], Any]]]]


def watch(buffer: Any, asked: Asked, clock: Callable[[], float] = time.monotonic) -> None:
    """Lets a replay buffer raise :class:`WorkerGoneError`, at most some seconds after the fact.

    Args:
        buffer: verl's, which looks into the queue several times a second while it waits.
        asked: gives names, and what makes a Ray reference to the answer.
        clock: seconds.
    """
    look, sample = buffer._sync_metadata_from_transfer_queue, buffer.sample
    watcher = _Watcher(asked, clock)

    @wraps(look)
    def look_and_ask() -> None:
        look()
        watcher.now_and_then()

    @wraps(sample)
    def sample_or_say_why(*arguments: Any, **named: Any) -> Any:
        try:
            return sample(*arguments, **named)
        except RuntimeError as error:
            if type(error) is RuntimeError:  # verl's own, of a batch that has nothing in it
                watcher.at_once()
            raise

    buffer._sync_metadata_from_transfer_queue = look_and_ask
    buffer.sample = sample_or_say_why


class _Watcher:
    """One that is merely busy answers late, and is not asked again before it has."""

    def __init__(self, asked: Asked, clock: Callable[[], float]) -> None:
        self._asked, self._clock, self._last = asked, clock, clock()
        self._open: dict[str, Any] = {}

    def now_and_then(self) -> None:
        if self._clock() - self._last < EVERY_S:
            return
        self._last = self._clock()
        for name, ask in self._asked():
            if name in self._open:
                if not ray.wait([self._open[name]], timeout=0)[0]:
                    continue
                _heed(name, self._open[name])
            self._open[name] = ask()

    def at_once(self) -> None:
        for name, ask in self._asked():
            _heed(name, ask())


def _heed(name: str, answer: Any) -> None:
    """Raises where somebody is gone, or in trouble."""
    try:
        trouble = ray.get(answer, timeout=PATIENCE_S)
    except GetTimeoutError:
        return  # busy
    except RayActorError as error:
        trouble = " ".join(str(error).split())
        raise WorkerGoneError(_words(name, trouble)) from error
    if isinstance(trouble, str):
        raise WorkerGoneError(_words(name, trouble))


def _words(name: str, trouble: str) -> str:
    return (
        f"{name} is gone, and the responses it was to bring with it: {trouble}. Out of memory? See "
        "'killed' in verl.log and in the kernel's log"
    )
