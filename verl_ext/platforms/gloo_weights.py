"""Weights from the trainer to servers of their own, over gloo: ``separate_async`` without a GPU.

verl's own checkpoint engines need NCCL, HCCL or RDMA. This one is registered as ``gloo``, where
``rollout.checkpoint_engine.custom_backend_module`` names this module: ``+scale=cpu`` does.
"""

import pickle
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from typing import Any

import ray
import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry
from verl.workers.rollout.utils import ensure_async_iterator

PREFIX = "verl_ext_weights"
OUTSIDE = -1  # rank of a worker of the trainer that has nothing to send
Bucket = list[tuple[str, Tensor]]


@CheckpointEngineRegistry.register("gloo")
class GlooCheckpointEngine(CheckpointEngine):
    """Worker 0 of the trainer broadcasts to all servers' workers, in a group made anew each time.

    Args:
        bucket_size: bytes after which what was gathered is sent; a larger tensor goes alone.
        is_master: whether this is the trainer's worker 0.
        timeout_s: seconds that a process waits for another.
    """

    def __init__(self, bucket_size: int, is_master: bool = False, timeout_s: float = 600) -> None:
        self._bucket_size, self._is_master = bucket_size, is_master
        self._timeout = timedelta(seconds=timeout_s)
        self._store: TCPStore | None = None
        self._group: Any = None  # ProcessGroupGloo, whose stub lacks its collectives

    def prepare(self) -> tuple[str, int] | None:  # type: ignore[override]
        """Where the group meets, of the master; None of others."""
        if not self._is_master:
            return None
        host = str(ray.util.get_node_ip_address()).strip("[]")  # type: ignore[no-untyped-call]
        self._store = TCPStore(
            host, 0, is_master=True, timeout=self._timeout, wait_for_workers=False
        )
        return host, self._store.port

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Keyword arguments of :meth:`init_process_group` for each worker of the two sides.

        Args:
            actor_wg_world_size: workers of the trainer.
            rollout_world_size: workers of the servers.
            metadata: what :meth:`prepare` gave, of the trainer's workers first.
        """

        def side(ranks: list[int]) -> dict[str, list[Any]]:
            size = [1 + rollout_world_size] * len(ranks)
            return {"rank": ranks, "world_size": size, "meeting": [metadata[0]] * len(ranks)}

        return (
            side([0] + [OUTSIDE] * (actor_wg_world_size - 1)),
            side([1 + server for server in range(rollout_world_size)]),
        )

    def init_process_group(  # type: ignore[override]
        self, rank: int, world_size: int, meeting: tuple[str, int]
    ) -> None:
        """Joins the group.

        Args:
            rank: 0 sends, others receive; a worker outside has rank -1.
            world_size: of the group.
            meeting: host and port of the master's store.
        """
        if rank == OUTSIDE:
            return
        if self._store is None:
            self._store = TCPStore(*meeting, is_master=False, timeout=self._timeout)
        store = PrefixStore(PREFIX, self._store)
        self._group = ProcessGroupGloo(store, rank, world_size, self._timeout)

    def finalize(self) -> None:
        """Leaves the group."""
        self._group = self._store = None

    @torch.no_grad()
    async def send_weights(
        self, weights: Iterable[tuple[str, Tensor]], global_steps: int | None = None
    ) -> None:
        """Sends all weights; a worker outside goes through them, since making them is collective.

        Args:
            weights: name and tensor.
            global_steps: not used.
        """
        bucket: Bucket = []
        async for name, weight in ensure_async_iterator(weights):  # type: ignore[no-untyped-call]
            if self._group is None:
                continue
            if bucket and _bytes(bucket) + weight.nbytes > self._bucket_size:
                self._send(bucket)
                bucket = []
            bucket.append((name, weight.detach().cpu().contiguous()))
        if self._group is not None:
            self._send(bucket)
            self._send([])  # the end

    async def receive_weights(  # type: ignore[override]
        self, global_steps: int | None = None
    ) -> AsyncGenerator[tuple[str, Tensor], None]:
        """Yields name and tensor of all weights.

        Args:
            global_steps: not used.
        """
        while bucket := self._receive():
            for name, weight in bucket:
                yield name, weight

    def _send(self, bucket: Bucket) -> None:
        header = pickle.dumps([(name, weight.dtype, weight.shape) for name, weight in bucket])
        described = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(header)]))
        self._broadcast(described)
        if bucket:
            self._broadcast(torch.cat([w.reshape(-1).view(torch.uint8) for _, w in bucket]))

    def _receive(self) -> Bucket:
        length = self._broadcast(torch.zeros(1, dtype=torch.long))
        header = self._broadcast(torch.empty(int(length), dtype=torch.uint8))
        described = pickle.loads(header.numpy().tobytes())  # of our own trainer
        if not described:
            return []
        sizes = [shape.numel() * dtype.itemsize for _, dtype, shape in described]
        flat = self._broadcast(torch.empty(sum(sizes), dtype=torch.uint8))
        parts: tuple[Tensor, ...] = torch.split(flat, sizes)
        # Cloned: a slice of bytes need not lie where its type wants it.
        return [
            (name, part.clone().view(dtype).view(shape))
            for part, (name, dtype, shape) in zip(parts, described, strict=True)
        ]

    def _broadcast(self, tensor: Tensor) -> Tensor:
        assert self._group is not None, "init_process_group comes first"
        self._group.broadcast(tensor, 0).wait()
        return tensor


def _bytes(bucket: Bucket) -> int:
    return sum(weight.nbytes for _, weight in bucket)
