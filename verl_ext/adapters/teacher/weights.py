"""This rank's share of an engine's weights, and another one's in their place for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def local_weights(engine: Any) -> dict[str, Tensor]:
    """The weights that this rank holds, by name; views: writing into them changes the model.

    FSDP2's shards, or Megatron's parameters of this rank's tensor and pipeline part. FSDP2 keeps
    what it has gathered of some modules for their next forward pass; it is thrown away here, so
    that no pass sees weights that are no longer there.

    Args:
        engine: verl's, its weights on the device (inside its eval or train mode).
    """
    if isinstance(engine.module, list):  # Megatron's, one a virtual stage
        return {
            f"{stage}.{name}": weight.data
            for stage, module in enumerate(engine.module)
            for name, weight in module.named_parameters()
        }
    for module in engine.module.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return {name: _local(weight) for name, weight in engine.module.named_parameters()}


def _local(weight: Tensor) -> Tensor:
    kept = weight.detach()
    return kept.to_local() if isinstance(kept, DTensor) else kept


@contextmanager
def weights_in_place(engine: Any, others: Mapping[str, Tensor]) -> Iterator[None]:
    """Lets the engine compute with other weights; afterwards it has its own, bit for bit.

    Args:
        engine: as in :func:`local_weights`.
        others: by the same names, of any type and device.
    """
    live = local_weights(engine)
    own = {name: weight.to("cpu", copy=True) for name, weight in live.items()}
    try:
        _write(live, others)
        yield
    finally:
        _write(local_weights(engine), own)


@torch.no_grad()
def _write(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])
