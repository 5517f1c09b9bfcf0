"""The toy world: a tiny model and a tiny task, built on the spot, no download."""
