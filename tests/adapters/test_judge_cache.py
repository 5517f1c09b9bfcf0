"""Answers that are not asked for again."""

import sqlite3
import subprocess
import sys

import pytest
from adapters.judge_servers import SHORT, asked, distinct

from verl_ext.adapters.judge.cache import AnswerCache, key
from verl_ext.adapters.judge.settings import JudgeError
from verl_ext.adapters.judge.verdict import Cost
from verl_ext.simulated_judge.annotator import Annotator


def test_a_second_judge_asks_nothing_that_the_first_did(serve, tmp_path):
    server = serve(annotator=Annotator(noise=1))
    first = asked(server, *distinct(4), (SHORT,), cache=str(tmp_path))
    again = asked(server, *distinct(4), (SHORT,), cache=str(tmp_path))
    assert server.stats()["calls"] == 5
    assert [v.scores for v in again[:4]] == [v.scores for v in first[:4]]
    assert again[4].score == first[4].score
    assert all(v.cost == Cost(cached=True) for v in again)


def test_processes_share_a_cache_while_they_write_it(serve, tmp_path):
    server = serve()
    code = (
        "import sys\n"
        "from verl_ext.adapters.judge.cache import AnswerCache\n"
        "cache = AnswerCache(sys.argv[1])\n"
        "for number in range(300):\n"
        "    cache.keep(sys.argv[2] + str(number), 'x')\n"
        "    cache.keep('shared' + str(number), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen([*command, name]) for name in ("a", "b", "c")]
    asked(server, *distinct(50), cache=str(tmp_path))
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    cache = AnswerCache(str(tmp_path))
    assert all(cache.find(f"{name}{n}") == "x" for name in "abc" for n in range(300))
    assert {cache.find(f"shared{n}") for n in range(300)} <= {"a", "b", "c"}
    asked(server, *distinct(50), cache=str(tmp_path))
    assert server.stats()["calls"] == 50


@pytest.mark.parametrize("fault", ["malformed", "out_of_range", "http_500", "truncated"])
def test_only_good_answers_are_kept(serve, tmp_path, fault):
    asked(serve({fault: 1.0}), cache=str(tmp_path))
    kept = sqlite3.connect(tmp_path / "judge.sqlite")
    assert kept.execute("SELECT count(*) FROM answers").fetchone() == (0,)
    asked(serve(), cache=str(tmp_path))
    assert kept.execute("SELECT answer FROM answers").fetchall() == [
        ('{"first": 2.5, "second": 5.0}',)
    ]
    kept.close()


BODY = {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 0.0}


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("http://g/v1", BODY),
        ("http://h/v1", BODY | {"model": "n"}),
        ("http://h/v1", BODY | {"messages": [{"role": "user", "content": "b"}]}),
        ("http://h/v1", BODY | {"temperature": 1.0}),
        ("http://h/v1", BODY | {"response_format": {}}),
        ("http://h/v1", BODY | {"extra_body": {"top_k": 1}}),
    ],
)
def test_whatever_determines_an_answer_is_in_its_key(url, body):
    assert key(url, body) != key("http://h/v1", BODY)
    assert key("http://h/v1/", dict(reversed(BODY.items()))) == key("http://h/v1", BODY)


def test_a_cache_that_does_not_work_stops_the_run(serve, tmp_path):
    (tmp_path / "judge.sqlite").write_text("not a database, and long enough to be looked at" * 9)
    with pytest.raises(JudgeError, match=r"judge\.sqlite does not work"):
        asked(serve(), cache=str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(JudgeError, match="does not work"):
        asked(serve(), cache=str(tmp_path / "file"))
