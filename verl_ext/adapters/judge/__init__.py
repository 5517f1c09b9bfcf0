"""A judge behind an OpenAI-compatible endpoint, which may fail."""
