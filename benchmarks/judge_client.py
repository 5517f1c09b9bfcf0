"""How many comparisons a second a judge's client makes over HTTP, and what they cost.

    python benchmarks/judge_client.py [--seconds 6] [--concurrency 1 8 32] [--latency 0.05]

Against the simulated judge, in a process of its own on this machine. A comparison is one pair in
both orders: two calls. The responses have 2,000 characters, the retries and the cache are unused.

For each number of calls at a time: comparisons per second; CPU milliseconds per comparison of this
process (the client) and of the server, apart; the calls in flight as the server saw them; and what
bounds the rate, which is the lowest of three ceilings:

client's CPU     one comparison after the other in its one thread
server's CPU     the same of the server
calls at a time  calls allowed / (2 calls of their latency and CPU time)

On a machine with other work the rate stays below the ceiling; CPU time and ceiling hold there too.
In the second half the server answers after ``--latency`` seconds, as a model would.
"""

import argparse
import asyncio
import itertools
import time
from dataclasses import dataclass

from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import JudgeSettings
from verl_ext.reward_fns.judge import Scores, bidirectional
from verl_ext.reward_fns.judge_prompt import JudgedResponse
from verl_ext.simulated_judge.annotator import Annotator
from verl_ext.simulated_judge.child import RunningJudge, start
from verl_ext.simulated_judge.settings import ServerSettings

QUESTION = [{"role": "user", "content": "What is a tournament? " * 10}]
LENGTH = 2000


@dataclass
class Measured:
    """One run."""

    comparisons: int
    wall_s: float
    client_s: float
    server_s: float
    in_flight: int

    def ceilings(self, concurrency: int, latency_s: float) -> dict[str, float]:
        """Comparisons per second that each part would allow alone."""
        client, server = self.client_s / self.comparisons, self.server_s / self.comparisons
        return {
            "client's CPU": 1 / client,
            "server's CPU": 1 / server,
            "calls at a time": concurrency / (2 * latency_s + client + server),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each line")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--latency", type=float, default=0.05)
    arguments = parser.parse_args()
    print("latency  at a time  comparisons/s  client ms  server ms  in flight  ceiling  bound by")
    for latency in (0.0, arguments.latency):
        for concurrency in arguments.concurrency:
            with start(ServerSettings(annotator=Annotator(noise=1), latency_s=latency)) as server:
                found = asyncio.run(measured(server, concurrency, arguments.seconds))
            rate = found.comparisons / found.wall_s
            client, server_ms = (
                1000 * seconds / found.comparisons for seconds in (found.client_s, found.server_s)
            )
            name, ceiling = min(
                found.ceilings(concurrency, latency).items(), key=lambda item: item[1]
            )
            print(
                f"{latency:7.3f}  {concurrency:9d}  {rate:13.1f}  {client:9.2f}  {server_ms:9.2f}  "
                f"{found.in_flight:9d}  {ceiling:7.1f}  {name}",
                flush=True,
            )


async def measured(server: RunningJudge, concurrency: int, seconds: float) -> Measured:
    judge = Judge(JudgeSettings(server.url, "simulated", api_key_env=None, concurrency=concurrency))
    numbers = itertools.count()
    done = 0

    async def scores(first: JudgedResponse, second: JudgedResponse) -> Scores | None:
        return (await judge.pair(QUESTION, first, second)).scores

    async def compare(until: float) -> None:
        nonlocal done
        while time.monotonic() < until:
            text = f"{next(numbers):08d}" * (LENGTH // 8)
            one, other = JudgedResponse(answer=text), JudgedResponse(answer=text[::-1])
            assert await bidirectional(scores, one, other) is not None
            done += 1

    await judge.pair(QUESTION, JudgedResponse(answer="a"), JudgedResponse(answer="b"))  # imports
    server_s, client_s, began = server.stats()["cpu_s"], time.process_time(), time.monotonic()
    # As many comparisons are twice the calls that are allowed: a turn is never left unused.
    await asyncio.gather(*(compare(began + seconds) for _ in range(concurrency)))
    wall_s, client_s = time.monotonic() - began, time.process_time() - client_s
    after = server.stats()
    await judge.close()
    return Measured(done, wall_s, client_s, after["cpu_s"] - server_s, after["in_flight_max"])


if __name__ == "__main__":
    main()
