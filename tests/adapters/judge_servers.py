"""What the tests of the judge share: real servers over HTTP, and how to ask them."""

import asyncio
import threading

from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import JudgeSettings
from verl_ext.adapters.judge.verdict import Failure
from verl_ext.reward_fns.judge_prompt import JudgedResponse
from verl_ext.simulated_judge.server import SimulatedJudge, listening

QUESTION = [{"role": "user", "content": "Say something long."}]
SHORT, LONG = JudgedResponse(answer="a" * 50), JudgedResponse(answer="a" * 100)
SECRET = "sk-very-secret-0123456789"
VARIABLE = "VERL_EXT_TEST_KEY"
# What a fault of the server is to the client.
FAULTS = {
    "http_500": Failure.HTTP_ERROR,
    "rate_limit": Failure.RATE_LIMITED,
    "rejected": Failure.REJECTED,
    "hang": Failure.TIMEOUT,
    "trickle": Failure.TIMEOUT,
    "slow": Failure.TIMEOUT,
    "drop": Failure.CONNECTION,
    "not_json": Failure.MALFORMED,
    "malformed": Failure.MALFORMED,
    "empty": Failure.MALFORMED,
    "out_of_range": Failure.OUT_OF_RANGE,
    "truncated": Failure.TRUNCATED,
    "refused": Failure.REFUSED,
}


class Served:
    """A judge behind HTTP in a thread of this process, which starts faster than a process."""

    def __init__(self, settings):
        self.judge, self._ready = SimulatedJudge(settings), threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(settings),))
        self._thread.start()
        self._ready.wait()

    async def _serve(self, settings):
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with listening(self.judge, settings) as self.url:
            self._ready.set()
            await self._ended.wait()

    def stats(self):
        return self.judge.stats()

    def stop(self):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


def settings_of(server, **values):
    """Of an impatient judge."""
    quick = {"api_key_env": None, "attempts": 1, "backoff_s": 0.01, "timeout_s": 30.0}
    return JudgeSettings(server.url, "simulated", **{**quick, **values})


def asking(judge, *calls):
    """What calls came to: (first, second) for pairs, (response,) for responses alone."""

    async def ask():
        try:
            return await asyncio.gather(
                *(
                    judge.pair(QUESTION, *call) if len(call) == 2 else judge.single(QUESTION, *call)
                    for call in calls
                )
            )
        finally:
            await judge.close()

    return asyncio.run(ask())


def asked(server, *calls, **values):
    judge = Judge(settings_of(server, **values))
    return asking(judge, *(calls or [(SHORT, LONG)]))


def scores_of(judge):
    async def ask(first, second):
        return (await judge.pair(QUESTION, first, second)).scores

    return ask


def distinct(count):
    return [
        (JudgedResponse(answer=f"{number:04d}"), JudgedResponse(answer="b"))
        for number in range(count)
    ]
