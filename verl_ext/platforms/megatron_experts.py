"""Experts of a mixture for Megatron's CPU runs: see ``megatron_layers``."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.dist_checkpointing.utils import replace_prefix_for_sharding
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from megatron.core.utils import divide
from torch import Tensor
from torch.nn.parameter import Parameter


class TEGroupedLinear(torch.nn.Module):
    """One linear layer per local expert, weights ``weight0``, ``weight1``, ..."""

    tp_axis: int

    def __init__(
        self,
        num_gemms: int,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Callable[[Tensor], Any],
        bias: bool,
        pg_collection: Any = None,
        **_: Any,
    ) -> None:
        super().__init__()
        if bias:
            raise NotImplementedError("experts with a bias have no CPU layer")
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups()
        self.num_gemms, self._groups = num_gemms, groups
        shape = [output_size, input_size]
        shape[self.tp_axis] = divide(shape[self.tp_axis], groups.expt_tp.size())
        for index in range(num_gemms):
            weight = Parameter(torch.empty(shape, dtype=config.params_dtype))
            if config.perform_initialization:
                init_method(weight)
            # Always: a weight without it counts on one tensor-parallel rank alone, although under
            # expert parallelism every rank holds other experts; the gradient norm comes out low.
            set_tensor_model_parallel_attributes(weight, True, self.tp_axis, 1)
            weight.allreduce = config.expert_model_parallel_size == 1  # type: ignore[attr-defined]
            self.register_parameter(f"weight{index}", weight)

    def forward(self, x: Tensor, m_splits: list[int]) -> tuple[Tensor, None]:
        """Applies expert i to the i-th run of rows.

        Args:
            x: (rows, input), sorted by expert.
            m_splits: rows of each local expert.
        """
        weights = [getattr(self, f"weight{index}") for index in range(self.num_gemms)]
        runs = zip(torch.split(x, m_splits), weights, strict=True)
        return torch.cat([F.linear(rows, weight) for rows, weight in runs]), None

    def backward_dw(self) -> None:
        """Weight gradients are never delayed here."""

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Shards under the keys that TE's layer and Megatron's sequential experts use."""
        singletons = (metadata or {}).get("singleton_local_shards", False)
        ep, first = self._groups.ep, self._groups.ep.rank() * self.num_gemms
        sharded: dict[str, Any] = {}
        for index in range(self.num_gemms):
            offset = (len(sharded_offsets), first + index, ep.size() * self.num_gemms)
            shard = make_sharded_tensors_for_checkpoint(
                {f"{index}.weight": getattr(self, f"weight{index}")},
                "",
                {f"{index}.weight": self.tp_axis},
                sharded_offsets if singletons else (*sharded_offsets, offset),
                tp_group=self._groups.expt_tp,
                dp_cp_group=metadata["dp_cp_group"],
            )
            expert = f"{first + index}.{prefix}" if singletons else prefix
            replace_prefix_for_sharding(shard, f"{index}.", expert)
            sharded[f"{prefix}weight{index}"] = shard[f"{index}.weight"]
        for tensor in sharded.values():  # replicas are those of the expert-data-parallel group
            tensor.replica_id = (*tensor.replica_id[:2], self._groups.expt_dp.rank())
        return sharded


class TEColumnParallelGroupedLinear(TEGroupedLinear):
    """Experts' linear layers, outputs split over the expert-tensor-parallel group."""

    tp_axis = 0


class TERowParallelGroupedLinear(TEGroupedLinear):
    """Experts' linear layers, inputs split over the expert-tensor-parallel group."""

    tp_axis = 1
