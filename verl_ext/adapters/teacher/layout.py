"""Where the tokens of a micro-batch lie among the logits that a rank holds.

Engines pack, pad and share a micro-batch out in ways of their own. One integer per token goes
through verl's own code for that; what belongs to a token is then looked up by it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.ulysses import (
    get_ulysses_sequence_parallel_group,
    get_ulysses_sequence_parallel_world_size,
    slice_input_tensor,
)

from verl_ext.losses.vocabulary import VocabShard

MEGATRON = "megatron"
UNSEEN = -20.0  # nats: of an id that a teacher does not have


@dataclass(frozen=True)
class SampledTokens:
    """The response tokens that are in the loss, in packed order.

    Attributes:
        slots: jagged (rows, prompt and response); at the position whose logits predict such a
            token its number plus 1, elsewhere 0.
        positions: (tokens,) the packed position of those logits.
        places: (tokens,) the packed position among the responses.
        labels: (tokens,) the token ids.
    """

    slots: Tensor
    positions: Tensor
    places: Tensor
    labels: Tensor


def sampled_tokens(data: TensorDict) -> SampledTokens:
    """Finds them by ``prompts``, ``responses`` and ``response_mask`` of a jagged micro-batch."""
    sequences, responses = data["input_ids"].offsets(), data["responses"].offsets()
    lengths = responses.diff()
    # Logits at position p predict token p + 1: a response's first logits are the prompt's last.
    starts = sequences[1:] - lengths - 1
    within = torch.arange(int(responses[-1]), device=lengths.device)
    within = within - responses[:-1].repeat_interleave(lengths)
    places = data["response_mask"].values().nonzero().squeeze(-1)
    positions = (starts.repeat_interleave(lengths) + within)[places]
    labels = data["responses"].values()[places]
    slots = torch.zeros(int(sequences[-1]), dtype=torch.int64, device=lengths.device)
    slots[positions] = torch.arange(1, len(positions) + 1, device=lengths.device)
    nested = torch.nested.nested_tensor_from_jagged(slots, sequences)
    return SampledTokens(nested, positions, places, labels)


def on_this_rank(slots: Tensor, data: TensorDict, strategy: str, data_format: str) -> Tensor:
    """A rank's share under sequence (Ulysses) or context parallelism, padded as its logits are."""
    if strategy == MEGATRON:
        from verl.models.mcore.util import preprocess_bshd_engine, preprocess_thd_engine

        if data_format == "thd":
            share: Tensor = preprocess_thd_engine(slots, pre_process=True)[0]
            return share
        # The mini-batch's longest row, to which verl pads every micro-batch unless told not to.
        longest = tu.get_non_tensor_data(data, key="forced_max_seqlen", default=None)
        share = preprocess_bshd_engine(slots, pre_process=True, forced_max_seqlen=longest)[0]
        return share
    packed = slots.values().unsqueeze(0)
    if get_ulysses_sequence_parallel_world_size() > 1:
        packed = slice_input_tensor(packed, dim=1)
    return packed


def vocabulary_shard(strategy: str, width: int) -> VocabShard | None:
    """Which ids a rank's logits are of, under tensor parallelism; None if all."""
    if strategy != MEGATRON:
        return None
    from megatron.core import parallel_state

    mpu: Any = parallel_state  # untyped
    if mpu.get_tensor_model_parallel_world_size() == 1:
        return None
    start = mpu.get_tensor_model_parallel_rank() * width
    return VocabShard(mpu.get_tensor_model_parallel_group(), start)


def of_width(logits: Tensor, width: int, strategy: str) -> Tensor:
    """A teacher's logits over as many ids as the student has.

    Models of one tokenizer may pad their vocabularies to different sizes. Ids beyond the student's
    are left out; ids beyond the teacher's get a log-prob of ``UNSEEN``: without any probability a
    reverse KL over the whole vocabulary would be infinite.

    Raises:
        ValueError: the sizes differ and ranks hold shards, which then are of different ids.
    """
    own = logits.shape[-1]
    if own == width:
        return logits
    if vocabulary_shard(strategy, width) is not None:
        raise ValueError(
            f"the teacher's vocabulary is cut into shards of {own} ids and the student's of "
            f"{width}: under tensor parallelism both need one size. Add: "
            "algorithm.verl_ext.teacher.source=server"
        )
    if own > width:
        return logits[..., :width]
    unseen = logits.logsumexp(-1, keepdim=True) + UNSEEN
    return torch.cat([logits, unseen.expand(*unseen.shape[:-1], width - own)], -1)


def sequence_group(strategy: str) -> Any:
    """The ranks that share a sequence's tokens out among them; None if one rank has them all."""
    if strategy == MEGATRON:
        from megatron.core import parallel_state

        mpu: Any = parallel_state  # untyped
        if mpu.get_context_parallel_world_size() == 1:
            return None
        return mpu.get_context_parallel_group()
    if get_ulysses_sequence_parallel_world_size() == 1:
        return None
    return get_ulysses_sequence_parallel_group()


@dataclass(frozen=True)
class Here:
    """Which sampled tokens' logits this rank holds, of a micro-batch.

    Attributes:
        data: the micro-batch, jagged.
        tokens: its sampled tokens.
        chosen: (here,) numbers of those whose logits are on this rank.
        rows: (here,) where these lie among the logits.
        vocab: the rank's share of the vocabulary.
    """

    data: TensorDict
    tokens: SampledTokens
    chosen: Tensor
    rows: Tensor
    vocab: VocabShard | None

    @classmethod
    def find(cls, logits: Tensor, data: TensorDict, strategy: str, data_format: str) -> "Here":
        """Finds them.

        Args:
            logits: (1, tokens, vocabulary) or (rows, time, vocabulary).
            data: the micro-batch.
            strategy: of the engine.
            data_format: of Megatron, ``"thd"`` or ``"bshd"``.

        Raises:
            RuntimeError: the engine laid the micro-batch out in another way.
        """
        tokens = sampled_tokens(data)
        slots = on_this_rank(tokens.slots, data, strategy, data_format)
        if slots.shape != logits.shape[:2]:
            raise RuntimeError(
                f"the engine laid this micro-batch out as {tuple(logits.shape[:2])} tokens, "
                f"{tuple(slots.shape)} were expected: a padding that verl-ext does not know. Take "
                "the last change of padding or precision settings back, and report it"
            )
        slots = slots.flatten()
        rows = slots.nonzero().squeeze(-1)
        vocab = vocabulary_shard(strategy, logits.shape[-1])
        return cls(data, tokens, slots[rows] - 1, rows, vocab)

    def laid_out(self, values: Tensor, shape: torch.Size) -> Tensor:
        """One value per token here, as an engine wants them: 0 elsewhere."""
        whole = torch.zeros(shape, dtype=values.dtype, device=values.device).flatten()
        return whole.index_put((self.rows,), values).view(shape)
