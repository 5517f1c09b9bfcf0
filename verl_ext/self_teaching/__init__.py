"""Self-distillation: what a policy's own teacher is told, and an averaged one's weights."""
