"""Layers for Megatron's CPU runs, in the place and under the names of Transformer Engine's.

Megatron's bridges build their models from Transformer Engine (TE) layers, which are CUDA kernels.
These modules have the same class names, constructor arguments, parameter names and shards, so that
every map between Hugging Face and Megatron weights, and every checkpoint, is the one a GPU run has.
They compute with plain torch. Import this module only after the platform's import hooks are in
place: it imports Megatron.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.experts import SequentialMLP, TEGroupedMLP
from torch import Tensor
from torch.nn.parameter import Parameter

from verl_ext.platforms.causal_attention import Sequences, attend
from verl_ext.platforms.megatron_experts import (
    TEColumnParallelGroupedLinear,
    TERowParallelGroupedLinear,
)


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
