"""How a rollout worker stops a run: it leaves a word in verl's queue, which the trainer reads.

What a worker raises stays with it: verl marks the prompt as failed and goes on without it.
"""

import asyncio
from functools import wraps
from typing import Any, NoReturn

import transfer_queue as tq
from ray.exceptions import RayTaskError

PARTITION = "verl_ext_stopped"


class RolloutStopped(RuntimeError):
    """What a rollout worker has given up on, in its words."""


async def stop(error: Exception, cause: BaseException | None = None) -> NoReturn:
    """Leaves word for the trainer, and gives up.

    Args:
        error: its text is the word, and it is raised.
        cause: of it.
    """
    await tq.async_kv_put(key="worker", partition_id=PARTITION, tag={"error": str(error)})
    raise error from cause


def stop_when_told(buffer: Any) -> None:
    """Lets a replay buffer raise :class:`RolloutStopped` once a worker has left word.

    Args:
        buffer: verl's; it reads the whole queue's tags each time it looks.
    """
    look = buffer._sync_metadata_from_transfer_queue

    @wraps(look)
    def look_and_stop() -> None:
        look()
        for told in (buffer.partitions.get(PARTITION) or {}).values():
            raise RolloutStopped(told["error"])

    buffer._sync_metadata_from_transfer_queue = look_and_stop


def forget() -> None:
    """Clears a word that a checkpoint of the queue has brought back: it has stopped its own run."""
    left = tq.kv_list(partition_id=PARTITION).get(PARTITION)
    if left:
        tq.kv_clear(keys=sorted(left), partition_id=PARTITION)


def in_words(error: BaseException, late: str) -> str:
    """One line about a failure: its kind, and the first line of what it says.

    Args:
        error: of a server.
        late: what to say of one that did not answer in time.
    """
    if isinstance(error, asyncio.TimeoutError):
        return late
    if isinstance(error, RayTaskError):
        error = error.cause or error
    first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
