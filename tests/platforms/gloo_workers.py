"""What the processes of test_gloo_weights do; a module that they can import."""

import asyncio
import pickle

import torch

TIMEOUT_S = 60


def weights():
    torch.manual_seed(0)
    yield "matrix", torch.randn(8, 6).t()  # not contiguous
    yield "half", torch.randn(5).to(torch.bfloat16)
    yield "step", torch.tensor(7)
    yield "large", torch.randn(1000)  # more than a bucket
    yield "empty", torch.zeros(0, 3)
    yield "flag", torch.tensor([True, False, True])


def worker(pipe, is_master, sends):
    from verl.checkpoint_engine import CheckpointEngineRegistry

    from verl_ext.platforms import gloo_weights  # noqa: F401

    made = {"is_master": is_master} if sends else {}
    engine = CheckpointEngineRegistry.new("gloo", bucket_size=256, timeout_s=TIMEOUT_S, **made)
    seen = []

    async def received():
        return [(name, weight) async for name, weight in engine.receive_weights(global_steps=1)]

    def watched():
        for name, weight in weights():
            seen.append(name)
            yield name, weight

    for _ in range(2):  # a group is made anew for each sync
        pipe.send(engine.prepare())
        engine.init_process_group(**pipe.recv())
        if sends:
            asyncio.run(engine.send_weights(watched(), global_steps=1))
        else:
            seen.append(asyncio.run(received()))
        engine.finalize()
    pipe.send_bytes(pickle.dumps(seen))
