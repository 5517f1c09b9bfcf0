"""Weights of a student: as given, and by chance."""

import torch


def weights(*values, dtype=torch.float32):
    return {"w": torch.tensor(values, dtype=dtype)}


def random_weights(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed": torch.randn(50, 20, generator=generator).to(dtype),
        "norm": (1 + 0.1 * torch.randn(20, generator=generator)).to(dtype),
    }
