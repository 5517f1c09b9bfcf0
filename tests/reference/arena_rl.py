"""ArenaRL's rewards, retold slowly in our own words, without concurrency.

Paper: Zhang et al. 2026, https://arxiv.org/abs/2601.06487. Code: the group reward models of
https://github.com/Alibaba-NLP/qqr. ``points`` maps a pair (i, j) to the points of i and of j; only
one order of each pair need be there.
"""

import math
import statistics


def between(points, i, j):
    """The points of i and of j."""
    return points[i, j] if (i, j) in points else points[j, i][::-1]


def min_rank_rewards(scores):
    """Equal scores have the best of their ranks; the worst rank becomes 0, the best 1."""
    ranks = [sorted(scores, reverse=True).index(score) + 1 for score in scores]
    worst = max(ranks)
    return [(worst - rank) / (worst - 1) if worst > 1 else 0.0 for rank in ranks]


def anchor(n, points):
    """Everybody against player 0, whose score is the mean of what it got."""
    own, others = [], []
    for player in range(1, n):
        of_player, of_anchor = between(points, player, 0)
        others.append(of_player)
        own.append(of_anchor)
    return min_rank_rewards([statistics.fmean(own), *others])


def round_robin(n, points):
    """A win is 1, a tie 1/2, for everybody against everybody."""
    wins = [0.0] * n
    for i in range(n):
        for j in range(i + 1, n):
            of_i, of_j = between(points, i, j)
            wins[i] += 1.0 if of_i > of_j else 0.5 if of_i == of_j else 0.0
            wins[j] += 1.0 if of_j > of_i else 0.5 if of_i == of_j else 0.0
    return min_rank_rewards(wins)


def bracket_of(players):
    """Seeds in the order of the bracket: best against worst, recursively; then byes struck out."""
    size = 1
    while size < len(players):
        size *= 2
    order = [1]
    while len(order) < size:
        order = [seed for one in order for seed in (one, 2 * len(order) + 1 - one)]
    return [players[seed - 1] for seed in order if seed <= len(players)]


def single_elimination(n, points, again=True):
    """Seeds from the anchor, then neighbours meet; an odd last one goes to the front.

    With ``again`` points against the anchor count twice where it is met in the bracket, being
    judged twice there.
    """
    got = [[] for _ in range(n)]
    for player in range(1, n):
        of_player, of_anchor = between(points, player, 0)
        got[player].append(of_player)
        got[0].append(of_anchor)
    seeds = sorted(range(n), key=lambda player: statistics.fmean(got[player]), reverse=True)
    left, losers = bracket_of(seeds), []
    while len(left) > 1:
        through, out = [], []
        if len(left) % 2:
            through.append(left.pop())
        for i, j in zip(left[::2], left[1::2], strict=True):
            of_i, of_j = between(points, i, j)
            if again or 0 not in (i, j):
                got[i].append(of_i)
                got[j].append(of_j)
            winner, loser = (i, j) if of_i >= of_j else (j, i)
            through.append(winner)
            out.append(loser)
        losers.append(out)
        left = through
    ranking = left
    for out in reversed(losers):
        ranking += sorted(out, key=lambda player: statistics.fmean(got[player]), reverse=True)
    return [1 - ranking.index(player) / (n - 1) for player in range(n)]


def advantages(rewards):
    """Standardised with the unbiased deviation."""
    mean = math.fsum(rewards) / len(rewards)
    squares = math.fsum((reward - mean) ** 2 for reward in rewards)
    return [(r - mean) / (math.sqrt(squares / (len(rewards) - 1)) + 1e-6) for r in rewards]
