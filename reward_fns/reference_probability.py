"""Reference probability: how likely the policy finds the reference answer after its own reasoning.

No verifier is asked. The response's answer is replaced by the reference, and the probabilities that
the policy gives the reference's tokens are the reward; what it gives them without any reasoning is
subtracted, so that easy-to-guess answers earn nothing.

Source: Yu et al., "RLPR: Extrapolating RLVR to General Domains without Verifiers", 2025,
https://arxiv.org/abs/2506.18254, section 2; https://github.com/OpenBMB/RLPR.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from verl_ext.reward_fns.splice import splice
from verl_ext.tensor_ops import require_finite, require_same_shape

__all__ = ["REDUCTIONS", "InvalidLogProbs", "debias", "probability_reward", "splice"]

# Of the log-probabilities (0 where masked), the mask and its row sums.
REDUCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mean": lambda log_probs, answer, length: (log_probs.exp() * answer).sum(-1) / length,
    "geometric_mean": lambda log_probs, answer, length: (log_probs.sum(-1) / length).exp(),
    "product": lambda log_probs, answer, length: log_probs.sum(-1).exp(),
    "mean_log_prob": lambda log_probs, answer, length: log_probs.sum(-1) / length,
}
# A log-softmax in float32 may round to a little above 0; a probability does not look like that.
_ROUNDING = 1e-3


class InvalidLogProbs(ValueError):
    """A token of a reference answer has no log-probability.

    Attributes:
        rows: numbers of the responses concerned, in order.
    """

    def __init__(self, message: str, rows: tuple[int, ...]) -> None:
        super().__init__(message)
        self.rows = rows


@torch.no_grad()
def probability_reward(
    log_probs: Float[Tensor, "batch time"],
    answer_mask: Shaped[Tensor, "batch time"],
    *,
    reduction: str = "mean",
) -> Float[Tensor, " batch"]:
    """The probability of the reference answer, reduced over its tokens.

        mean: (1/L) Σ p_t               geometric_mean: (Π p_t)^(1/L)
        product: Π p_t                  mean_log_prob: (1/L) Σ log p_t

    Args:
        log_probs: log p_t of the spliced sequence's tokens under the policy, in nats, at one
            temperature for all rewards of a run: the reward depends on it.
        answer_mask: 1 on tokens of the reference; what stands elsewhere is ignored, NaN included.
        reduction: ``"mean"`` of the token probabilities, the paper's; ``"geometric_mean"``, the
            inverse perplexity; ``"product"``, the likelihood of the whole answer, which one
            unlikely token ruins; ``"mean_log_prob"``, in nats.

    Returns:
        One reward per response, in [0, 1] (``mean_log_prob``: ≤ 0), in the dtype of ``log_probs``,
        or in float32 if that is a half.

    Raises:
        ValueError: ``reduction`` is none of these, the shapes differ, or a row has no token of the
            reference: a response that could not be spliced has no probability, and a 0 here would
            pass for one.
        InvalidLogProbs: a reference token's log-probability is NaN or above 0; or −inf where its
            logarithm is the reward.

    Degenerate: log p = −inf is a probability of 0. One token makes all reductions agree.

    Deviations: computed in float64 and not rounded to bfloat16, as the authors' code rounds. There
    a response that could not be spliced scores 0.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    require_same_shape(log_probs=log_probs, answer_mask=answer_mask)
    answer = answer_mask.bool()
    length = answer.sum(-1)
    without = torch.nonzero(length == 0).flatten().tolist()
    if without:
        raise ValueError(f"answer_mask is empty in rows {without}: leave out what was not spliced")
    # Not multiplied by the mask: NaN times 0 is NaN.
    masked = torch.where(answer, log_probs.double(), 0)
    _require_log_probs(masked, finite=reduction == "mean_log_prob")
    reward = REDUCTIONS[reduction](masked, answer, length)
    return reward.to(torch.promote_types(log_probs.dtype, torch.float32))


def _require_log_probs(masked: Float[Tensor, "batch time"], *, finite: bool) -> None:
    """Refuses what is no log-probability; with ``finite``, −inf too."""
    wrong: Bool[Tensor, "batch time"] = ~(masked <= _ROUNDING)
    if finite:
        wrong = wrong | masked.isinf()
    rows = tuple(torch.nonzero(wrong.any(-1)).flatten().tolist())
    if rows:
        raise InvalidLogProbs(
            f"log_probs of {int(wrong.sum())} reference tokens are NaN, above 0"
            f"{' or -inf' if finite else ''}, in rows {list(rows)}: pass log-probabilities in nats "
            "and leave out rows that the server could not score",
            rows,
        )


@torch.no_grad()
def debias(
    reward: Float[Tensor, "*batch"] | float, base: Float[Tensor, "*batch"] | float
) -> Float[Tensor, "*batch"]:
    """What the reasoning adds: clip(r − b, 0, 1).

    Args:
        reward: r, the probability reward of each response.
        base: b, the same reduction over the reference without reasoning (prompt, space, reference,
            space, end of sequence; no tags) under the policy before training; one for each
            response, or a single number for responses to one prompt.

    Returns:
        A reward in [0, 1] for each response. Where it is 0 the reasoning taught nothing, or harmed.

    Raises:
        ValueError: the shapes differ, or a value is NaN or infinite: compute what is missing.

    Degenerate: r = b gives 0.

    Deviations: a base score that is missing is an error; the authors' code skips the whole batch.
    """
    # A number becomes float64, a tensor stays what it is.
    rewards, bases = (
        value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        for value in (reward, base)
    )
    if bases.dim():
        require_same_shape(reward=rewards, base=bases)
    require_finite("reward", rewards.reshape(-1), "score the response, or leave it out")
    require_finite("base", bases.reshape(-1), "score the reference without reasoning first")
    return (rewards - bases).clamp(0, 1)
