"""Layers for Megatron's CPU runs, in the place and under the names of Transformer Engine's.

Megatron's bridges build their models from Transformer Engine (TE) layers, which are CUDA kernels.
These modules have the same class names, constructor arguments, parameter names and shards, so that
every map between Hugging Face and Megatron weights, and every checkpoint, is the one a GPU run has.
They compute with plain torch. Import this module only after the platform's import hooks are in
place: it imports Megatron.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.dist_checkpointing.utils import replace_prefix_for_sharding
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.experts import SequentialMLP, TEGroupedMLP
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from megatron.core.utils import divide
from torch import Tensor
from torch.nn.parameter import Parameter

from verl_ext.platforms.causal_attention import Sequences, attend


def _norm_weight(config: Any, size: int) -> Parameter:
    if config.normalization != "RMSNorm" or config.layernorm_zero_centered_gamma:
        raise NotImplementedError(
            f"normalization={config.normalization} (zero_centered_gamma="
            f"{config.layernorm_zero_centered_gamma}) has no CPU layer: only plain RMSNorm has"
        )
    weight = Parameter(torch.ones(size, dtype=config.params_dtype))
    # Under sequence parallelism each rank sees a part of the tokens: Megatron sums these gradients.
    weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    return weight


class TENorm(torch.nn.Module):
    """RMSNorm with a weight that sequence parallelism knows about."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.weight = _norm_weight(config, hidden_size)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class TEColumnParallelLinear(ColumnParallelLinear):  # type: ignore[misc]
    """Megatron's own column-parallel linear layer, under TE's name."""


class TERowParallelLinear(RowParallelLinear):  # type: ignore[misc]
    """Megatron's own row-parallel linear layer, under TE's name."""


class TELayerNormColumnParallelLinear(ColumnParallelLinear):  # type: ignore[misc]
    """RMSNorm and a column-parallel linear layer in one module, as TE has it."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.layer_norm_weight = _norm_weight(config, input_size)
        self.eps = config.layernorm_epsilon

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """The linear layer of the normalised input, and its bias where that is added later."""
        normed = F.rms_norm(x, self.layer_norm_weight.shape, self.layer_norm_weight, self.eps)
        output: tuple[Tensor, Tensor | None] = super().forward(normed, *args, **kwargs)
        return output


class TEDotProductAttention(MegatronModule):  # type: ignore[misc]
    """Causal attention over packed (thd) or padded (sbhd) sequences, context-parallel if asked.

    Under context parallelism keys and values of all ranks are gathered; each rank attends from its
    own two chunks of every sequence (the zigzag layout). Padding stands behind the tokens of a
    sequence, where causal attention never looks, so no mask is needed.

    Raises:
        NotImplementedError: attention that is not causal, has a window, a bias, dropout, sinks or
            logit capping.
    """

    def __init__(  # noqa: PLR0913 - TE's signature
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        k_channels: int | None = None,
        v_channels: int | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__(config=config)
        dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        unsupported = {
            f"attention type {attention_type}": attention_type != "self",
            f"mask {attn_mask_type}": "causal" not in attn_mask_type.name,
            f"window_size {config.window_size}": config.window_size is not None,
            f"attention_dropout {dropout}": bool(dropout),
            f"softmax_type {config.softmax_type}": config.softmax_type != "vanilla",
            "query-key layer scaling": config.apply_query_key_layer_scaling,
        }
        if any(unsupported.values()):
            names = ", ".join(name for name, present in unsupported.items() if present)
            raise NotImplementedError(f"attention on the CPU platform does not have: {names}")
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups(["tp", "cp"])
        self.cp_group = groups.cp
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attention output, flat over heads.

        Args:
            query: (tokens, heads, channels) packed, or (time, batch, heads, channels).
            key: as query, with as many heads or a divisor of it.
            value: as key.
            attention_mask: not read: see the class.
            attn_mask_type: not read.
            attention_bias: must be None.
            packed_seq_params: lengths of the packed sequences, None where they are padded.
        """
        if attention_bias is not None:
            raise NotImplementedError("attention on the CPU platform does not have a bias")
        packed = packed_seq_params is not None
        if not packed:  # one row after the other: padded sequences are packed ones of equal length
            time, batch = query.shape[:2]
            query, key, value = (x.transpose(0, 1).flatten(0, 1) for x in (query, key, value))
            lengths = [time * self.cp_group.size()] * batch
        else:
            lengths = packed_seq_params.cu_seqlens_q_padded.diff().tolist()
        sequences = Sequences(tuple(lengths), self.cp_group.rank(), self.cp_group.size())
        if self.cp_group.size() > 1:
            key, value = (
                gather_from_sequence_parallel_region(x.contiguous(), group=self.cp_group)
                for x in (key, value)
            )
        output = attend(query, key, value, sequences, scale=self.softmax_scale).flatten(-2)
        return output if packed else output.reshape(batch, time, -1).transpose(0, 1)


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


class CPUSpecProvider(BackendSpecProvider):  # type: ignore[misc]
    """Answers Megatron's question which layers to build a model from."""

    def linear(self) -> type:
        """A layer that is not parallel: only multi-latent attention asks for it."""
        raise NotImplementedError("multi-latent attention has no CPU layers")

    def column_parallel_linear(self) -> type:
        """Outputs split over ranks."""
        return TEColumnParallelLinear

    def row_parallel_linear(self) -> type:
        """Inputs split over ranks."""
        return TERowParallelLinear

    def fuse_layernorm_and_linear(self) -> bool:
        """As TE: the norm's weight is a parameter of the linear layer."""
        return True

    def column_parallel_layer_norm_linear(self) -> type:
        """Norm and linear layer in one."""
        return TELayerNormColumnParallelLinear

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> type:
        """The norm of heads, and the last one."""
        return TENorm

    def core_attention(self) -> type:
        """Causal attention."""
        return TEDotProductAttention

    def grouped_mlp_modules(
        self, moe_use_grouped_gemm: bool, moe_use_legacy_grouped_gemm: bool
    ) -> tuple[type, MLPSubmodules]:
        """Experts: in one layer, or one after the other."""
        if moe_use_grouped_gemm and not moe_use_legacy_grouped_gemm:
            fc1, fc2 = TEColumnParallelGroupedLinear, TERowParallelGroupedLinear
            return TEGroupedMLP, MLPSubmodules(linear_fc1=fc1, linear_fc2=fc2)
        fc1, fc2 = TEColumnParallelLinear, TERowParallelLinear
        return SequentialMLP, MLPSubmodules(linear_fc1=fc1, linear_fc2=fc2)

    def activation_func(self) -> Any:
        """No fused activation."""
        return None
