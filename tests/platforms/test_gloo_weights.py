"""Weights over gloo: two workers of a trainer to two servers', each a process of its own."""

import pickle
from multiprocessing import get_context

import pytest
import torch
from platforms.gloo_workers import TIMEOUT_S, weights, worker


@pytest.fixture(scope="module")
def synced():
    """What each of four workers has seen: two of the trainer, then two of servers."""
    from verl_ext.platforms.gloo_weights import GlooCheckpointEngine

    context = get_context("spawn")
    pipes, processes = [], []
    for rank in range(4):
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(there, rank == 0, rank < 2), daemon=True)
        process.start()
        pipes.append(here)
        processes.append(process)
    for _ in range(2):
        told = [pipe.recv() for pipe in pipes]
        assert [meeting is not None for meeting in told] == [True, False, False, False]
        of_trainer, of_servers = GlooCheckpointEngine.build_topology(2, 2, told)
        for side, members in ((of_trainer, pipes[:2]), (of_servers, pipes[2:])):
            for row, pipe in enumerate(members):
                pipe.send({name: values[row] for name, values in side.items()})
    seen = [pickle.loads(pipe.recv_bytes()) for pipe in pipes]
    for process in processes:
        process.join(TIMEOUT_S)
    assert [process.exitcode for process in processes] == [0] * 4
    return seen


def test_every_server_gets_every_weight_to_the_bit_in_order(synced):
    expected = list(weights())
    for syncs in synced[2:]:
        assert len(syncs) == 2
        for received in syncs:
            assert [name for name, _ in received] == [name for name, _ in expected]
            for (_, got), (name, sent) in zip(received, expected, strict=True):
                assert (got.dtype, got.shape) == (sent.dtype, sent.shape), name
                assert torch.equal(got, sent), name


def test_a_worker_with_nothing_to_send_goes_through_the_weights_all_the_same(synced):
    """Making them is collective: the first worker would wait for it."""
    names = [name for name, _ in weights()]
    assert synced[0] == synced[1] == names * 2
