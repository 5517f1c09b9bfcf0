"""The authors' advantage computation, retold slowly in our own words.

Paper: Zhu et al. 2025, https://arxiv.org/abs/2506.01347; code: TianHongZXY/RLVR-Decomposed.
"""

EPSILON = 0.2  # the authors' symmetric PPO clip


def authors_advantages(rewards, lengths, *, mode, positive_weight=1.0, gamma=1.0):
    """Walks each response backwards, collecting the return-to-go, and signs it by its outcome.

    Args:
        rewards: outcome of each response, 0 or 1, given at its last token.
        lengths: tokens of each response.
        mode: "positive" (PSR), "negative" (NSR) or "weighted" (W-REINFORCE).
        positive_weight: the factor of a correct response in "weighted"; their default is 1.
        gamma: discount; they train with 1.

    Returns:
        A list of advantages for each response the authors train on, by row number: they take the
        others out of the batch.
    """
    assert all(reward in (0, 1) for reward in rewards)
    trained = {}
    for row, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        signed = {
            ("positive", 1): 1.0,
            ("negative", 0): -1.0,
            ("weighted", 1): positive_weight,
            ("weighted", 0): -1.0,
        }.get((mode, reward))
        if signed is None:
            continue
        to_go, row_advantages = 0.0, []
        for position in reversed(range(length)):
            arrives_here = signed if position == length - 1 else 0.0
            to_go = arrives_here + gamma * to_go
            row_advantages.insert(0, to_go)
        trained[row] = row_advantages
    return trained


def authors_token_loss(ratio, advantage):
    """Their PPO loss of one token: the worse of the free and the clipped one, no dual clip."""
    clipped = min(max(ratio, 1 - EPSILON), 1 + EPSILON)
    return max(-advantage * ratio, -advantage * clipped)


def authors_loss(ratios, trained):
    """Their token mean over the responses that were left in the batch."""
    losses = [
        authors_token_loss(ratios[row][position], advantage)
        for row, row_advantages in trained.items()
        for position, advantage in enumerate(row_advantages)
    ]
    return sum(losses) / len(losses)
