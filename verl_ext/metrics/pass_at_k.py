"""pass@k: the probability that at least one of k samples is correct, estimated from n.

Source: Chen et al., "Evaluating Large Language Models Trained on Code", 2021,
https://arxiv.org/abs/2107.03374, equation 1.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def pass_at_k(
    correct: Shaped[Tensor, " prompts"], n: int, k: int
) -> Float[Tensor, " prompts"]:
    """The unbiased estimate 1 − C(n−c, k) / C(n, k) for each prompt.

    Computed as 1 − ∏ᵢ₌₀ᵏ⁻¹ (n−c−i)/(n−i): no factorial, exact 0 for c = 0 and exact 1 for
    n − c < k.

    Args:
        correct: c, correct samples of each prompt, 0 ≤ c ≤ n.
        n: samples of each prompt.
        k: samples one may draw, 1 ≤ k ≤ n.

    Returns:
        Estimates in [0, 1], float64.

    Raises:
        ValueError: k is outside 1..n, or a count outside 0..n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and n={n}, got {k}")
    if torch.any((correct < 0) | (correct > n)):
        raise ValueError(f"correct counts must be between 0 and n={n}, got {correct.tolist()}")
    drawn = torch.arange(k, dtype=torch.float64, device=correct.device)
    wrong = (n - correct.double()).unsqueeze(-1)
    return 1 - ((wrong - drawn).clamp(min=0) / (n - drawn)).prod(-1)


def pass_at_k_curve(outcomes: Shaped[Tensor, "prompts n"]) -> Float[Tensor, " n"]:
    """Mean pass@k over the prompts for k = 1 .. n.

    Args:
        outcomes: 1 where a sample is correct, 0 where it is wrong.

    Returns:
        pass@1 (the mean accuracy), …, pass@n; never decreasing; float64.

    Raises:
        ValueError: an outcome is neither 0 nor 1, or there are no outcomes.
    """
    if outcomes.numel() == 0:
        raise ValueError("pass@k of no outcomes")
    if not torch.all((outcomes == 0) | (outcomes == 1)):
        raise ValueError(f"outcomes must be 0 or 1, got {outcomes.unique().tolist()[:5]}")
    n = outcomes.shape[-1]
    correct = outcomes.sum(-1)
    return torch.stack([pass_at_k(correct, n, k).mean() for k in range(1, n + 1)])
