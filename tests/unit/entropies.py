"""The entropy of each token of a small batch."""

import torch

# Two responses of 2 and 4 tokens; what stands on padding must not matter.
MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
ENTROPY = torch.tensor([[0.4, 0.4, torch.nan, 9.0], [0.1, 0.1, 0.1, 0.1]], dtype=torch.float64)
