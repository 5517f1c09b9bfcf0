"""Every topology, judges of every kind, and the tournament that they decide."""

import asyncio
import random

import pytest

from verl_ext.reward_fns.tournament import TOPOLOGIES

ALL = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
SIZES = range(2, 34)


def scoring(scores):
    """A judge who gives each player its score, whomever it meets."""

    async def compare(i, j):
        return scores[i], scores[j]

    return compare


def answering(answers):
    """A judge with an answer for each pair (i, j), asked in either order; None is void."""

    async def compare(i, j):
        if (i, j) in answers:
            return answers[i, j]
        return answers[j, i] and answers[j, i][::-1]

    return compare


def noting(compare, asked):
    """The judge, writing down whom it was asked about."""

    async def noted(i, j):
        asked.append((i, j))
        return await compare(i, j)

    return noted


def coin(seed):
    """A judge who gives 0 or 1 by chance, the same for a pair whenever and however asked."""

    async def compare(i, j):
        draw = random.Random(f"{seed} {min(i, j)} {max(i, j)}")
        low, high = draw.randint(0, 1), draw.randint(0, 1)
        return (low, high) if i < j else (high, low)

    return compare


def played(topology, n, compare, **settings):
    return asyncio.run(topology(n, compare, **settings))


def qualities(n, seed):
    values = list(range(n))
    random.Random(seed).shuffle(values)
    return values


async def void(i, j):
    return None
