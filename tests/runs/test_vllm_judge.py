"""A real vLLM server on the CPU as the judge: our client, its schema, its guided decoding."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest

from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import JudgeError, JudgeSettings
from verl_ext.adapters.tournament.group import judged
from verl_ext.adapters.tournament.settings import Tournament
from verl_ext.reward_fns.judge_prompt import JudgedResponse
from verl_ext.toy import model, tokenizer

PATIENCE_S = 400
LENGTH = 8192  # a byte is a token of it


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serves a model with random weights, which says what the grammar allows and nothing else."""
    folder = tmp_path_factory.mktemp("judge")
    made = model.new_model(model.ModelSpec(), seed=0)
    made.config.max_position_embeddings = LENGTH
    model.save_model(made, folder)
    tokenizer.save_tokenizer(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--served-model-name", "judge", "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(LENGTH), "--dtype", "float32", "--enforce-eager"),
    ]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    with open(folder / "out.log", "w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env=environment
        )
    try:
        for _ in range(PATIENCE_S):
            assert process.poll() is None, (folder / "out.log").read_text()[-4000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield JudgeSettings(
            base_url=f"http://127.0.0.1:{port}/v1",
            model="judge",
            api_key_env=None,
            temperature=1.0,
            max_tokens=64,
            attempts=20,  # a random model may write digits for ever
            backoff_s=0.0,
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.run
def test_a_vllm_server_judges_a_group_and_keeps_to_the_schema(server):
    judge = Judge(server)
    responses = [JudgedResponse(reasoning="hm", answer=f"answer {n}") for n in range(4)]
    question = [{"role": "user", "content": "Which number is best?"}]
    wanted = Tournament(judge={"base_url": server.base_url, "model": "judge"}, max_void=0.5)

    async def judged_group():
        try:
            return await judged(wanted, judge, question, responses, 0)
        finally:
            await judge.close()

    verdict = asyncio.run(judged_group())
    assert not verdict.void
    assert sorted(verdict.rewards) != [0, 0, 0, 0]
    assert all(0 <= points <= 10 for points in verdict.points)
    kinds = {name for name in verdict.sums if name.startswith("failed/")}
    assert kinds <= {"failed/truncated"}  # of a wrong answer the schema has left none
    assert verdict.sums["tokens"] > 100 * verdict.sums["calls"]


@pytest.mark.run
def test_a_model_that_the_server_does_not_have_is_said_so(server):
    judge, question = Judge(replace(server, model="other")), [{"role": "user", "content": "?"}]
    with pytest.raises(JudgeError, match="other"):
        asyncio.run(judge.single(question, JudgedResponse(answer="a")))
