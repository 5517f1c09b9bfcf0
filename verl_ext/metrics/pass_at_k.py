"""pass@k: the probability that at least one of k samples is correct, estimated from n.

Source: Chen et al., "Evaluating Large Language Models Trained on Code", 2021,
https://arxiv.org/abs/2107.03374, equation 1.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@torch.no_grad()
def pass_at_k(
    correct_counts: Shaped[Tensor, " prompts"], n: int, k: int
) -> Float[Tensor, " prompts"]:
    """The unbiased estimate 1 − C(n−c, k) / C(n, k) for each prompt.

    Computed as 1 − ∏ᵢ₌₀ᵏ⁻¹ (n−c−i)/(n−i): no factorial, exact 0 for c = 0 and exact 1 for
    n − c < k.

    Args:
        correct_counts: c, correct samples of each prompt, 0 ≤ c ≤ n, whole numbers.
        n: samples of each prompt.
        k: samples one may draw, without replacement; 1 ≤ k ≤ n.

    Returns:
        Estimates in [0, 1], float64.

    Raises:
        ValueError: k is outside 1..n, or a count is no whole number from 0 to n.

    Degenerate: no prompts give an empty tensor; k = n is 1 where anything was correct, else 0.

    Deviations: none.
    """
    if not 1 <= k <= n:
        raise ValueError(
            f"k must be between 1 and n={n}, got {k}: draw at least k samples a prompt"
        )
    counts = correct_counts.double()
    valid = (counts >= 0) & (counts <= n) & (counts == counts.round())
    if not torch.all(valid):
        wrong = sorted(set(counts[~valid].tolist()))[:5]
        raise ValueError(f"correct counts must be whole numbers from 0 to n={n}, got {wrong}")
    drawn = torch.arange(k, dtype=torch.float64, device=counts.device)
    # Counts are whole: where k > n − c the product runs through an exact 0 and stays there.
    wrong_left = (n - counts).unsqueeze(-1) - drawn
    return 1 - (wrong_left / (n - drawn)).prod(-1)


@torch.no_grad()
def pass_at_k_curve(outcomes: Shaped[Tensor, "prompts n"]) -> Float[Tensor, " n"]:
    """Mean pass@k over the prompts for k = 1 .. n.

    Args:
        outcomes: 1 where a sample is correct, 0 where it is wrong.

    Returns:
        pass@1 (the mean accuracy), …, pass@n; never decreasing; float64.

    Raises:
        ValueError: there are no outcomes, or one is neither 0 nor 1.

    Deviations: none.
    """
    if outcomes.numel() == 0:
        raise ValueError(f"pass@k needs at least one outcome, got shape {tuple(outcomes.shape)}")
    valid = (outcomes == 0) | (outcomes == 1)
    if not torch.all(valid):
        wrong = sorted(set(outcomes[~valid].tolist()))[:5]
        raise ValueError(f"outcomes must be 0 or 1, got {wrong}")
    n = outcomes.shape[-1]
    counts = outcomes.double().sum(-1)
    return torch.stack([pass_at_k(counts, n, k).mean() for k in range(1, n + 1)])
