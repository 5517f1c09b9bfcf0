"""Which prompts a training batch is made of."""
