"""2,000 groups judged over HTTP by a judge whose calls fail: nobody gains or loses by it.

Every set of qualities is dealt once to each player, so that no player is good by chance.
"""

import asyncio
import random

import pytest
import torch

from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import JudgeSettings
from verl_ext.adapters.tournament.group import judged
from verl_ext.adapters.tournament.settings import Tournament
from verl_ext.advantage_fns.rank import rank
from verl_ext.reward_fns.judge_prompt import JudgedResponse
from verl_ext.simulated_judge.annotator import Annotator
from verl_ext.simulated_judge.child import start
from verl_ext.simulated_judge.faults import Faults
from verl_ext.simulated_judge.settings import ServerSettings

GROUPS, PLAYERS, AT_ONCE = 2000, 8, 16
VICTIM = 3
QUESTION = [{"role": "user", "content": "say something"}]


def dealt(group):
    """The qualities of a group's players, in [.2, .8]."""
    deal, turn = divmod(group, PLAYERS)
    draw = random.Random(f"qualities {deal}")
    qualities = [round(draw.uniform(0.2, 0.8), 6) for _ in range(PLAYERS)]
    return qualities[turn:] + qualities[:turn]


async def judge_all(url, wanted):
    settings = JudgeSettings(
        base_url=url, model="simulated", api_key_env=None, attempts=1, concurrency=64,
        breaker={"failures": 10**9},
    )  # fmt: skip
    judge, turns = Judge(settings), asyncio.Semaphore(AT_ONCE)

    async def one(group):
        answers = [f"g{group} player{n} {value}" for n, value in enumerate(dealt(group))]
        responses = [JudgedResponse(answer=answer) for answer in answers]
        async with turns:
            return await judged(wanted, judge, QUESTION, responses, group)

    try:
        return await asyncio.gather(*map(one, range(GROUPS)))
    finally:
        await judge.close()


def advantages(share, marker):
    """(groups, players), the same by rank of quality, and which groups are not void."""
    settings = ServerSettings(
        quality="adapters.open_questions:quality",
        annotator=Annotator(noise=1.0),
        faults=Faults(shares={"http_500": share / 2, "malformed": share / 2}, marker=marker),
    )
    with start(settings) as running:
        wanted = Tournament(judge={"base_url": running.url, "model": "simulated"}, max_void=0.1)
        verdicts = asyncio.run(judge_all(running.url, wanted))
        calls = running.stats()["calls"]
    assert calls == sum(verdict.sums["calls"] for verdict in verdicts)
    for verdict in verdicts:
        assert verdict.void == (verdict.sums["void"] / verdict.sums["comparisons"] > 0.1)
    rewards = torch.tensor([verdict.rewards for verdict in verdicts], dtype=torch.float64)
    groups = torch.arange(GROUPS).repeat_interleave(PLAYERS)
    spread, _ = rank(rewards.flatten(), torch.ones(GROUPS * PLAYERS, 1), groups)
    by_player = spread.view(GROUPS, PLAYERS)
    order = torch.tensor([dealt(group) for group in range(GROUPS)]).argsort(-1, descending=True)
    return by_player, by_player.gather(1, order), torch.tensor([not v.void for v in verdicts])


@pytest.fixture(scope="module")
def without_faults():
    return advantages(0.0, None)


@pytest.mark.run
@pytest.mark.wide
@pytest.mark.parametrize(("share", "marker"), [(0.05, None), (0.1, f"player{VICTIM} ")])
def test_no_player_and_no_rank_gains_or_loses_by_failures(without_faults, share, marker):
    by_player, by_rank, alive = advantages(share, marker)
    assert GROUPS * 0.5 < alive.sum() < GROUPS  # some groups are void, and are counted as 0
    assert not by_player[~alive].any()
    error = by_player.std(0) / GROUPS**0.5
    assert (by_player.mean(0).abs() <= 3 * error).all()
    of_rank, expected = by_rank[alive], without_faults[1]
    error = (of_rank.var(0) / len(of_rank) + expected.var(0) / GROUPS).sqrt()
    assert ((of_rank.mean(0) - expected.mean(0)).abs() <= 3 * error).all()
    assert of_rank.mean(0)[0] > 1  # the best is told from the others
