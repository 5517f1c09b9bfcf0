"""A judge that does not answer is left alone for a while."""

import asyncio

import pytest
from adapters.judge_servers import FAULTS, LONG, QUESTION, SHORT, asked, distinct, settings_of

from verl_ext.adapters.judge.breaker import Admission, Breaker
from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import BreakerSettings
from verl_ext.adapters.judge.verdict import Failure
from verl_ext.simulated_judge.faults import Faults


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def breaker(failures=3, cooldown_s=10):
    clock = Clock()
    return Breaker(BreakerSettings(failures, cooldown_s), clock), clock


def fail(made, times):
    for _ in range(times):
        made.silent(made.admission())


def test_a_breaker_opens_after_failures_in_a_row():
    made, _ = breaker()
    fail(made, 2)
    made.answered()
    fail(made, 2)
    assert made.admission() is Admission.ORDINARY
    made.silent(Admission.ORDINARY)
    assert made.admission() is Admission.REFUSED


def test_after_the_cooldown_one_probe_decides():
    made, clock = breaker()
    fail(made, 3)
    clock.now = 9.9
    assert made.admission() is Admission.REFUSED
    clock.now = 10
    assert [made.admission() for _ in range(2)] == [Admission.PROBE, Admission.REFUSED]
    made.silent(Admission.PROBE)
    clock.now = 19.9
    assert made.admission() is Admission.REFUSED
    clock.now = 20
    assert made.admission() is Admission.PROBE
    made.answered()
    assert [made.admission() for _ in range(2)] == [Admission.ORDINARY] * 2
    fail(made, 2)
    assert made.admission() is Admission.ORDINARY  # counted from 0 again


def test_calls_from_before_it_opened_neither_prolong_nor_replace_the_probe():
    made, clock = breaker()
    fail(made, 3)
    clock.now = 5
    made.silent(Admission.ORDINARY)
    clock.now = 10
    assert made.admission() is Admission.PROBE
    made.silent(Admission.ORDINARY)
    made.abandoned(Admission.ORDINARY)
    assert made.admission() is Admission.REFUSED
    made.abandoned(Admission.PROBE)
    assert made.admission() is Admission.PROBE


def test_the_breaker_opens_and_closes_over_http(serve):
    """Ten calls fail by number; two open it, so the eleventh to answer is a probe."""
    server = serve(faults=Faults(outages=((0, 3),)))
    limits = {"failures": 2, "cooldown_s": 0.3}
    judge = Judge(settings_of(server, breaker=limits, concurrency=1))

    async def ask():
        calls = [await judge.pair(QUESTION, *pair) for pair in distinct(5)]
        await asyncio.sleep(0.35)
        calls.append(await judge.pair(QUESTION, SHORT, LONG))  # the probe, number 2: fails
        calls.append(await judge.pair(QUESTION, SHORT, LONG))
        await asyncio.sleep(0.35)
        calls.append(await judge.pair(QUESTION, SHORT, LONG))  # the probe, number 3
        calls.append(await judge.pair(QUESTION, SHORT, LONG))
        return [call.failure for call in calls]

    down, left = Failure.HTTP_ERROR, Failure.CIRCUIT_OPEN
    assert asyncio.run(ask()) == [down, down, left, left, left, down, left, None, None]
    assert server.stats()["calls"] == 5


@pytest.mark.parametrize("fault", ["malformed", "rejected", "refused", "truncated"])
def test_an_endpoint_that_answers_badly_is_not_left_alone(serve, fault):
    verdicts = asked(serve({fault: 1.0}), *distinct(4), breaker={"failures": 1}, concurrency=1)
    assert {verdict.failure for verdict in verdicts} == {FAULTS[fault]}


def test_calls_that_queue_behind_dying_ones_are_not_made(serve):
    server = serve({"http_500": 1.0})
    verdicts = asked(server, *distinct(20), breaker={"failures": 2}, concurrency=2, attempts=2)
    kinds = [verdict.failure for verdict in verdicts]
    assert kinds.count(Failure.CIRCUIT_OPEN) >= 17
    assert server.stats()["calls"] <= 6


def test_a_cancelled_probe_lets_another_through(serve):
    server = serve(faults=Faults({"hang": 1.0}))
    judge = Judge(settings_of(server, breaker={"failures": 1, "cooldown_s": 0}, timeout_s=0.3))

    async def ask():
        assert (await judge.pair(QUESTION, SHORT, LONG)).failure is Failure.TIMEOUT
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(judge.pair(QUESTION, SHORT, LONG), 0.05)
        return (await judge.pair(QUESTION, SHORT, LONG)).failure

    assert asyncio.run(ask()) is Failure.TIMEOUT
