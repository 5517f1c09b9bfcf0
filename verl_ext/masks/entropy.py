"""AEPO: while the policy is too uncertain, mistakes do not teach.

A negative advantage pushes a sampled token's probability onto all the others. In an uncertain
state this spreads it further, and the entropy runs away; so negative advantages are withheld from
the loss while the entropy is high, and admitted again once it has come down.

Source: Shen et al., "QwenLong-L1.5: Post-Training Recipe for Long-Context Reasoning and Memory
Management", 2025, https://arxiv.org/abs/2512.12967, sections 4.3 and 4.4.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from verl_ext.masks.gates import CalibratedGate, EntropyGate, ReadmeBand, require_nats
from verl_ext.tensor_ops import require_finite, require_same_shape

__all__ = ["CalibratedGate", "EntropyGate", "ReadmeBand", "batch_entropy", "keep_mask"]

REDUCTIONS = ("sequence", "token")
_ADVICE = "entropies of sampled tokens come from the policy, in nats"


@torch.no_grad()
def batch_entropy(
    entropy: Float[Tensor, "batch time"],
    response_mask: Shaped[Tensor, "batch time"],
    *,
    reduction: str = "sequence",
) -> Float[Tensor, ""]:
    """The entropy H(B) of a batch, in nats.

    Args:
        entropy: of the policy at each token, in nats; values at masked tokens are ignored.
        response_mask: 1 on sampled tokens.
        reduction: ``"sequence"`` for the mean over responses of each one's mean over tokens, as in
            the paper; ``"token"`` for the mean over all tokens, where long responses count more.

    Returns:
        A scalar in the dtype of ``entropy``, or in float32 if that is a half.

    Raises:
        ValueError: ``reduction`` is neither, the shapes differ, a sampled token's entropy is NaN or
            infinite, or no token is sampled.

    Degenerate: a row without sampled tokens has no entropy and counts in neither mean.

    Deviations: the authors' README reads the token mean that the trainer last logged; the paper's
    is the mean over sequences, of this batch.
    """
    require_reduction(reduction)
    sums, lengths = _row_sums(entropy, response_mask)
    if not lengths.any():
        raise ValueError("no token is sampled: the batch has no entropy")
    if reduction == "sequence":
        mean = (sums / lengths)[lengths > 0].mean()
    else:
        mean = sums.sum() / lengths.sum()
    return mean.to(torch.promote_types(entropy.dtype, torch.float32))


def require_reduction(reduction: str) -> None:
    """Refuses, with a ValueError, a reduction that there is not."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def _row_sums(
    entropy: Float[Tensor, "batch time"], response_mask: Shaped[Tensor, "batch time"]
) -> tuple[Float[Tensor, " batch"], Shaped[Tensor, " batch"]]:
    """Each row's entropy over its sampled tokens, in float64, and their number."""
    require_same_shape(entropy=entropy, response_mask=response_mask)
    sampled = response_mask.bool()
    sums = torch.where(sampled, entropy, 0).sum(-1, dtype=torch.float64)
    require_finite("entropy", sums, _ADVICE)
    return sums, sampled.sum(-1)


@torch.no_grad()
def keep_mask(
    advantages: Float[Tensor, "batch time"],
    response_mask: Shaped[Tensor, "batch time"],
    *,
    gate_on: bool,
    entropy: Float[Tensor, "batch time"] | None = None,
    token_threshold: float | None = None,
    sequence_threshold: float | None = None,
) -> Bool[Tensor, "batch time"]:
    """Withholds negative advantages: all of them, or those of uncertain tokens or responses.

    AEPO is ``gate_on=gate.update(...)`` alone. A threshold is the paper's static clipping of
    negative gradients (equation 9) and needs no gate; both may be given.

    Args:
        advantages: per token, each judged by its own sign; values at masked tokens are ignored.
        response_mask: 1 on sampled tokens.
        gate_on: withholds every A < 0.
        entropy: of the policy at each token, in nats; needed by the thresholds.
        token_threshold: τ ≥ 0 in nats; withholds A < 0 at tokens whose entropy is above it.
        sequence_threshold: τ ≥ 0 in nats; withholds A < 0 in responses whose mean entropy over
            sampled tokens is above it.

    Returns:
        False on sampled tokens whose negative advantage is withheld, True everywhere else, padding
        included: combine it with the response mask.

    Raises:
        ValueError: the shapes differ; a threshold comes without ``entropy``, or is negative, NaN or
            infinite; or it meets a sampled token whose entropy is NaN or infinite.

    Degenerate: all A < 0 and the gate on keeps nothing to learn from; the trainer then skips the
    update. A = 0 is kept, and so is NaN, which stays in the loss where it shows.

    Deviations: as in the paper's equation 9, only A < 0 is withheld. The authors' README keeps
    rows by A > 0 and r > 0 at the first token, removes the others from the batch, and more to
    make it divisible by the number of GPUs.
    """
    require_same_shape(advantages=advantages, response_mask=response_mask)
    sampled = response_mask.bool()
    negative = sampled & (advantages < 0)
    thresholds = {"token_threshold": token_threshold, "sequence_threshold": sequence_threshold}
    given = {
        name: require_nats(name, value) for name, value in thresholds.items() if value is not None
    }
    if not given:
        return ~negative if gate_on else torch.ones_like(negative)
    if entropy is None:
        raise ValueError(f"{' and '.join(given)} need entropy, the policy's at each token")
    sums, lengths = _row_sums(entropy, response_mask)
    uncertain = torch.full_like(negative, gate_on)
    if "token_threshold" in given:
        uncertain |= entropy > given["token_threshold"]
    if "sequence_threshold" in given:
        uncertain |= (sums / lengths > given["sequence_threshold"]).unsqueeze(-1)
    return ~(negative & uncertain)
