"""The reward of a tournament that a judge decides: its settings, its checks, its group stage."""
