"""The simulated judge's own side: its process, its command, how it dies."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from adapters.judge_servers import LONG, QUESTION, SHORT, asking, distinct, settings_of

from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import JudgeSettings
from verl_ext.adapters.judge.verdict import Failure
from verl_ext.reward_fns.judge_prompt import JudgedResponse
from verl_ext.simulated_judge.annotator import Annotator
from verl_ext.simulated_judge.child import start
from verl_ext.simulated_judge.faults import Faults
from verl_ext.simulated_judge.settings import ServerSettings


def test_a_server_that_dies_in_the_middle_is_a_failure_and_no_exception(serve):
    server = serve(child=True, latency_s=2)
    judge = Judge(settings_of(server))

    async def ask():
        calls = asyncio.gather(*(judge.pair(QUESTION, *pair) for pair in distinct(4)))
        while not server.stats()["in_flight"]:
            await asyncio.sleep(0.01)
        os.kill(server.pid, signal.SIGKILL)
        return await calls, await judge.pair(QUESTION, SHORT, LONG)

    during, after = asyncio.run(ask())
    assert {verdict.failure for verdict in (*during, after)} == {Failure.CONNECTION}
    assert all(verdict.detail for verdict in (*during, after))


def test_nobody_listening_is_a_connection_failure():
    settings = JudgeSettings("http://127.0.0.1:9/v1", "m", api_key_env=None, attempts=1)
    (verdict,) = asking(Judge(settings), (SHORT, LONG))
    assert verdict.failure is Failure.CONNECTION


def test_the_server_ends_with_the_process_that_started_it():
    code = (
        "import os, signal\n"
        "from verl_ext.simulated_judge.child import start\n"
        "from verl_ext.simulated_judge.settings import ServerSettings\n"
        "print(start(ServerSettings()).url, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL
    url = died.stdout.strip().replace("/v1", "/health")
    assert url.startswith("http://127.0.0.1:")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("the simulated judge still listens")


def test_a_server_that_cannot_start_says_so(capfd):
    with pytest.raises(RuntimeError, match="did not start: exit status 1"):
        start(ServerSettings(quality="nowhere:f"))
    assert "nowhere" in capfd.readouterr().err


def test_settings_reach_the_server_as_they_are():
    settings = ServerSettings(
        annotator=Annotator(noise=1, high=5), faults=Faults({"hang": 0.5}, "m", ((1, 2), (3, 4)))
    )
    assert ServerSettings.loads(settings.dumps()) == settings


def test_the_command_serves_until_it_is_interrupted_and_sums_up():
    command = [sys.executable, "-m", "verl_ext", "judge", "--fault", "http_500=1", "--seed", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().strip()
        settings = JudgeSettings(url, "simulated", api_key_env=None, attempts=1)
        (verdict,) = asking(Judge(settings), (SHORT, LONG))
        assert verdict.failure is Failure.HTTP_ERROR
        models = urllib.request.urlopen(url + "/models").read()
        assert b'"simulated"' in models
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        line = process.stdout.read()
        assert line == "1 calls, at most 1 at a time; faults: 1 http_500\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_command_describes_a_judge():
    from verl_ext.cli import judge as command
    from verl_ext.cli.main import parser

    words = (
        "judge --host h --port 1 --model m --key-env K --quality a:b --noise 1 --calibration 2 "
        "--position-bias -1 --resolution 0.5 --flip 0.25 --max-score 5 --seed 3 --latency 0.1 "
        "--fault hang=0.1 --fault drop=0.2 --marker x --outage 1:2 --outage 3:4 "
        "--retry-after date:2 --slow 4"
    )
    assert command.settings(parser().parse_args(words.split())) == ServerSettings(
        quality="a:b",
        annotator=Annotator(
            noise=1, calibration=2, position_bias=-1, resolution=0.5, flip=0.25, max_score=5, seed=3
        ),
        faults=Faults({"hang": 0.1, "drop": 0.2}, "x", ((1, 2), (3, 4)), "date:2", 4, seed=3),
        latency_s=0.1,
        host="h",
        port=1,
        model="m",
        key_env="K",
    )


def test_a_prompt_that_is_no_judges_is_rejected_by_the_server(serve):
    body = b'{"model": "simulated", "messages": [{"role": "user", "content": "hello"}]}'
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(serve().url + "/chat/completions", body, headers)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    assert raised.value.code == 400
    raised.value.close()


def test_a_response_judged_again_with_another_seed_meets_another_mood(serve):
    judge = Judge(settings_of(serve(annotator=Annotator(noise=1.0, low=5.0))))
    response = JudgedResponse(answer="a")

    async def asked_with(*seeds):
        try:
            return [(await judge.single(QUESTION, response, seed)).score for seed in seeds]
        finally:
            await judge.close()

    first, again, other, none = asyncio.run(asked_with(1, 1, 2, None))
    assert first == again
    assert len({first, other, none}) == 3
