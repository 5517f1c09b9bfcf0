"""Losses between two next-token distributions. Pure tensor functions."""
