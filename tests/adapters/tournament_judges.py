"""A judge without a server, its question, and the configuration of a run that asks it."""

import asyncio
from dataclasses import replace

from omegaconf import OmegaConf

from verl_ext.adapters.judge.verdict import Cost, Failure, PairVerdict, SingleVerdict

JUDGE = {"base_url": "http://localhost:1/v1", "model": "m", "api_key_env": None}
QUESTION = [{"role": "user", "content": "say something long"}]
TEXTS = ["xx", "xxxxx", "x", "xxxx"]
COST = Cost(1, 0.25, 30, 4)


class LongerIsBetter:
    """A judge: a point a letter, and ``favour`` for the first; some of its calls fail."""

    def __init__(self, favour=0.0, fails=lambda *shown: False, moods=None, delays=None):
        self.favour, self.fails, self.moods, self.delays = favour, fails, moods, delays
        self.asked = []

    def seen(self, response):
        return replace(response, reasoning="")

    async def _wait(self):
        if self.delays:
            await asyncio.sleep(self.delays.random() / 1000)

    async def pair(self, question, first, second):
        assert question == QUESTION
        self.asked.append((first.answer, second.answer))
        await self._wait()
        if self.fails(first.answer, second.answer):
            return PairVerdict(None, Failure.TIMEOUT, "late", COST)
        mood = self.moods.gauss(0, 1) if self.moods else 0.0
        return PairVerdict((len(first.answer) + self.favour + mood, len(second.answer)), cost=COST)

    async def single(self, question, response, seed=None):
        self.asked.append((response.answer, seed))
        await self._wait()
        if self.fails(response.answer, seed):
            return SingleVerdict(None, Failure.MALFORMED, "no", COST)
        return SingleVerdict(float(len(response.answer)) + seed, cost=COST)


def configuration(n=4, **section):
    return OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "verl_ext.rank",
                "verl_ext": {"group_reward": {"tournament": {"judge": dict(JUDGE)} | section}},
            },
            "trainer": {"v1": {"trainer_mode": "verl_ext.sync"}},
            "actor_rollout_ref": {"rollout": {"n": n}},
            "reward": {"reward_model": {"enable": False}},
        }
    )
