"""A server that fails, lies and hangs: what its faults become, and when it is asked again."""

import pytest
from adapters.judge_servers import FAULTS, LONG, SHORT, asked, distinct
from openai.types.chat import ChatCompletion

from verl_ext.adapters.judge import exchange
from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import JudgeSettings
from verl_ext.adapters.judge.verdict import Failure
from verl_ext.simulated_judge.faults import Faults

ASKED_ONCE = ("rejected", "refused")
ASKED_AGAIN = sorted(set(FAULTS) - set(ASKED_ONCE))


def patience(fault):
    """Little where the judge does not answer, so that a busy machine fails no test."""
    return 0.5 if FAULTS[fault] is Failure.TIMEOUT else 60.0


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_a_verdict_without_scores_after_all_attempts(serve, fault):
    server = serve(faults=Faults({fault: 1.0}, retry_after="0", slow_s=60))
    calls = (SHORT, LONG), (SHORT,)
    pair, single = asked(server, *calls, attempts=2, timeout_s=patience(fault))
    for verdict in (pair, single):
        assert verdict.failure is FAULTS[fault]
        assert verdict.detail
        assert "\n" not in verdict.detail
        assert verdict.cost.attempts == (1 if fault in ASKED_ONCE else 2)
    assert pair.scores is None
    assert single.score is None


@pytest.mark.parametrize("fault", sorted(set(ASKED_AGAIN) - {"hang", "trickle", "slow"}))
def test_the_server_is_told_how_often_it_was_asked(serve, fault):
    server = serve(faults=Faults({fault: 1.0}, retry_after="0"))
    asked(server, (SHORT, LONG), (SHORT,), attempts=2)
    assert sorted(call["attempt"] for call in server.stats()["recent"]) == [0, 0, 1, 1]


def test_every_fault_of_the_server_is_in_the_table():
    from verl_ext.simulated_judge.faults import Fault

    assert {fault.value for fault in Fault} - {"outage"} == set(FAULTS)


@pytest.mark.parametrize("fault", ASKED_AGAIN)
def test_a_call_that_goes_well_the_next_time_is_good(serve, fault):
    server = serve(faults=Faults({fault: 0.5}, retry_after="0", slow_s=60, seed=3))
    verdicts = asked(
        server, *distinct(8), attempts=60, timeout_s=2 * patience(fault), max_backoff_s=0.01
    )
    assert all(verdict.failure is None for verdict in verdicts)
    assert max(verdict.cost.attempts for verdict in verdicts) > 1
    tokens = [verdict.cost.prompt_tokens / verdict.cost.attempts for verdict in verdicts]
    if FAULTS[fault] in (Failure.OUT_OF_RANGE, Failure.TRUNCATED):
        assert len(set(tokens)) == 1  # what could not be read was paid for too


def test_a_slow_judge_is_waited_for(serve):
    (verdict,) = asked(serve(faults=Faults({"slow": 1.0}, slow_s=0.3)), timeout_s=30)
    assert verdict.failure is None
    assert verdict.cost.latency_s >= 0.3


CHOICE = {"index": 0, "finish_reason": "stop", "message": {"content": "{}"}}
FILTERED = CHOICE | {"finish_reason": "content_filter"}


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("<html>hello</html>", Failure.MALFORMED),
        ({}, Failure.MALFORMED),
        ({"choices": None}, Failure.MALFORMED),
        ({"choices": []}, Failure.MALFORMED),
        ({"choices": "x"}, Failure.MALFORMED),
        ({"choices": [None]}, Failure.MALFORMED),
        ({"choices": [CHOICE | {"message": None}]}, Failure.MALFORMED),
        ({"choices": [CHOICE | {"message": {"content": None}}]}, Failure.MALFORMED),
        ({"choices": [CHOICE | {"message": {"content": [1]}}]}, Failure.MALFORMED),
        ({"choices": [CHOICE | {"message": {"refusal": "no"}}]}, Failure.REFUSED),
        ({"choices": [FILTERED]}, Failure.REFUSED),
        ({"choices": [CHOICE]}, None),
        ({"choices": [CHOICE], "usage": {"prompt_tokens": "many"}}, None),
    ],
)
def test_bodies_that_are_no_completion_are_failures(body, failure):
    """The client hands over what it could not check."""
    given = ChatCompletion.construct(**body) if isinstance(body, dict) else body
    reply = exchange._of_completion(given)
    assert reply.failure is failure
    assert reply.prompt_tokens == 0
    assert bool(reply.detail) == (failure is not None)


@pytest.mark.parametrize("told", ["1", "1.2", "date:1"])
def test_a_retry_after_is_waited_for_in_seconds_and_as_a_date(serve, told):
    server = serve(faults=Faults({"rate_limit": 0.5}, retry_after=told))
    verdicts = asked(server, *distinct(6), attempts=10)
    assert all(verdict.failure is None for verdict in verdicts)
    again = max(verdicts, key=lambda verdict: verdict.cost.attempts).cost
    assert again.attempts > 1
    assert again.latency_s >= (again.attempts - 1) * 0.95  # a date is up to 1 s more, never less
    times = [call["at"] for call in server.stats()["recent"]]
    first_again = [call["at"] for call in server.stats()["recent"] if call["attempt"] == 1]
    assert min(first_again) >= min(times) + 0.95


def test_a_retry_after_beyond_the_longest_wait_fails_at_once(serve):
    server = serve(faults=Faults({"rate_limit": 1.0}, retry_after="3600"))
    (verdict,) = asked(server, attempts=5, max_backoff_s=30)
    assert (verdict.failure, verdict.cost.attempts) == (Failure.RATE_LIMITED, 1)


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),  # 1.7e9 is 22:13:20
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Tue, 99 Nov 2023 22:13:10 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(header, seconds):
    assert exchange.retry_after(header, NOW) == seconds


def test_waits_grow_are_random_and_have_an_end():
    judge = Judge(JudgeSettings("http://h/v1", "m", backoff_s=1.0, max_backoff_s=10.0, attempts=9))
    waiting = judge._retrying().wait

    class State:
        class outcome:
            @staticmethod
            def result():
                return None, exchange.Reply(failure=Failure.TIMEOUT)

    def waits(attempt):
        State.attempt_number = attempt
        return [waiting(State) for _ in range(50)]

    assert all(1 <= wait <= 2 for wait in waits(1))
    assert all(2 <= wait <= 3 for wait in waits(2))
    assert all(4 <= wait <= 5 for wait in waits(3))
    assert waits(9) == [10.0] * 50
    assert len(set(waits(1))) > 1
