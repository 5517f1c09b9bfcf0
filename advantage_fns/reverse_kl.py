"""Reverse KL to a teacher as an advantage: on-policy distillation by policy gradient.

Each sampled token is judged by the teacher alone: what it finds less likely than the student did
is discouraged, what it finds likelier is encouraged. The gradient is that of KL(student‖teacher)
in expectation over the student's own samples, and never through the log-ratio itself: the mean of
∇ log p over a distribution is 0, so a log-ratio that is back-propagated teaches nothing.

Source: Lu et al. (Thinking Machines Lab), "On-Policy Distillation", 2025,
https://thinkingmachines.ai/blog/on-policy-distillation/, and the distillation trainer of
https://github.com/thinking-machines-lab/tinker-cookbook.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from verl_ext.tensor_ops import require_same_shape


@torch.no_grad()
def reverse_kl(
    student_log_probs: Float[Tensor, "batch time"],
    teacher_log_probs: Float[Tensor, "batch time"],
    response_mask: Shaped[Tensor, "batch time"],
    *,
    coef: float = 1.0,
    discount: float = 0.0,
    center: bool = False,
) -> Float[Tensor, "batch time"]:
    """Minus the log-ratio of student to teacher at each sampled token.

        A_t = Σ_{k ≥ 0} γᵏ a_{t+k},   a_t = −c · (log p_t − log q_t), 0 where masked

    Args:
        student_log_probs: log p of the sampled tokens under the policy that sampled them, in nats;
            computed once per batch, not anew in each mini-batch.
        teacher_log_probs: log q of the same tokens, in nats.
        response_mask: 1 on sampled tokens; what stands elsewhere is ignored, NaN included.
        coef: c ≥ 0, dimensionless.
        discount: γ in [0, 1]. 0 judges each token by itself; 1 by all that follows. Masked
            positions (a tool's answer) count as steps.
        center: True subtracts the batch's mean log-ratio over sampled tokens, so that only
            differences teach: then half of the tokens are good however bad the student is.

    Returns:
        Advantages in the dtype of the student's log-probabilities, 0 where masked.

    Raises:
        ValueError: the shapes differ; ``coef`` is negative or not finite; ``discount`` is not in
            [0, 1]; or a sampled token's log-probability is NaN or infinite (servers give −inf for
            tokens they never sample).

    Degenerate: without a sampled token everything is 0. Equal log-probabilities give exactly 0.

    Deviations: masked positions are set to 0 again after discounting; the authors' code leaves
    them the discounted sum, while the log-probability stored there is none. ``center`` is what
    their KL penalty towards a base model does; their distillation does not centre.
    """
    if not 0 <= coef < float("inf"):
        raise ValueError(f"coef must be finite and >= 0, got {coef}")
    if not 0 <= discount <= 1:
        raise ValueError(f"discount must be in [0, 1], got {discount}")
    require_same_shape(
        student_log_probs=student_log_probs,
        teacher_log_probs=teacher_log_probs,
        response_mask=response_mask,
    )
    sampled = response_mask.bool()
    _require_finite("student_log_probs", student_log_probs, sampled)
    _require_finite("teacher_log_probs", teacher_log_probs, sampled)
    # Not multiplied by the mask: NaN times 0 is NaN. In float64: it is one number per token.
    log_ratio = torch.where(sampled, student_log_probs.double() - teacher_log_probs.double(), 0)
    if center:
        mean = log_ratio.sum() / sampled.sum().clamp_min(1)
        log_ratio = torch.where(sampled, log_ratio - mean, 0)
    advantages = _future_sum(log_ratio * -coef, discount)
    # + 0.0: no zero carries the minus sign of −c · 0.
    return torch.where(sampled, advantages, 0).to(student_log_probs.dtype) + 0.0


def _future_sum(
    values: Float[Tensor, "batch time"], discount: float
) -> Float[Tensor, "batch time"]:
    """Each position's discounted sum over itself and all later positions."""
    if discount == 0:
        return values
    sums = values.clone()
    for position in range(values.shape[-1] - 2, -1, -1):
        sums[:, position] += discount * sums[:, position + 1]
    return sums


def _require_finite(
    name: str, values: Float[Tensor, "batch time"], sampled: Bool[Tensor, "batch time"]
) -> None:
    """Refuses, with a ValueError, a sampled token without a finite log-probability."""
    wrong = int((sampled & ~values.isfinite()).sum())
    if wrong:
        raise ValueError(
            f"{name} of {wrong} sampled tokens are NaN or infinite: clamp a server's -inf to the "
            "least value you want to teach"
        )
