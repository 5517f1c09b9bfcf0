"""Logits of a student and a teacher, by hand and by chance, and what is asked of them."""

import torch

ALPHAS = (0.0, 0.25, 0.5, 1.0)
SUPPORTS = ("student", "teacher", "full")

# Three tokens over five words; the student's two likeliest words are 0 and 1 at each token.
STUDENT = torch.tensor(
    [[0.5, 0.2, 0.15, 0.1, 0.05], [0.7, 0.1, 0.1, 0.05, 0.05], [0.25, 0.25, 0.2, 0.2, 0.1]],
    dtype=torch.float64,
).log()
TEACHER = torch.tensor(
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.05, 0.05], [0.05, 0.05, 0.3, 0.5, 0.1]],
    dtype=torch.float64,
).log()


def random_logits(*shape, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64)).to(dtype)


def kind_of(support, alpha=0.5, top_k=4, tail=True):
    top_k = None if support == "full" else top_k
    return {"alpha": alpha, "support": support, "top_k": top_k, "tail": tail}


def gradient(loss, logits):
    return torch.autograd.grad(loss.sum(), logits)[0]
