"""Learning from a teacher: settings and checks, its log-probs, and the loss against its logits."""
