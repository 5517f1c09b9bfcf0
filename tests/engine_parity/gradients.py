"""The whole gradient of an update, under the names of a checkpoint.

It is put in the place of the weights, gathered and merged over ranks as they are for a rollout,
and the weights are put back to the bit.
"""

import contextlib

import torch
import torch.distributed as dist


@contextlib.contextmanager
def first_of(engine):
    """The next gradient that a verl engine hands its optimizer; empty until then.

    On every rank the same: summed over all rows and ranks.
    """
    found, usual = {}, engine.optimizer_step

    def step():
        if not found:
            found.update(of(engine))
        return usual()

    engine.optimizer_step = step
    try:
        yield found
    finally:
        engine.optimizer_step = usual


def of(engine):
    """Name -> gradient."""
    chunks = engine.module if isinstance(engine.module, list) else [engine.module]
    parameters = [weight for chunk in chunks for weight in chunk.parameters()]
    if hasattr(parameters[0], "main_grad"):
        for chunk in chunks:
            gather_shards(chunk)
        gradients = [weight.main_grad for weight in parameters]
    else:
        gradients = [weight.grad for weight in parameters]
    with in_place_of(parameters, gradients):
        return weights(engine)


def weights(engine):
    """Name -> weight, of all ranks, in tensors of their own."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in engine.get_per_tensor_param()[0]
    }


def gather_shards(chunk):
    """Megatron's distributed optimizer leaves each rank of the data its share of a bucket's sum."""
    for buffer in chunk.buffers + chunk.expert_parallel_buffers:
        for bucket in buffer.buckets:
            shards = bucket.grad_data.chunk(buffer.data_parallel_world_size)
            mine = shards[dist.get_rank(buffer.data_parallel_group)].clone()
            dist.all_gather(list(shards), mine, group=buffer.data_parallel_group)


@contextlib.contextmanager
@torch.no_grad()
def in_place_of(parameters, gradients):
    """Weights that are their gradients, for as long as the block lasts."""
    before = [weight.clone() for weight in parameters]
    for weight, gradient in zip(parameters, gradients, strict=True):
        weight.copy_(gradient)
    try:
        yield
    finally:
        for weight, own in zip(parameters, before, strict=True):
            weight.copy_(own)
