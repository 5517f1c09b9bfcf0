"""The reward of a reference answer's probability: its settings, its checks, its base scores."""
