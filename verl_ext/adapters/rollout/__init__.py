"""What verl-ext adds to rollouts: seeds, a look after teacher servers, rewards of its own."""
