"""The judge's key, which nobody is to read, and what else would fail every call."""

import logging
import pickle

import pytest
from adapters.judge_servers import LONG, SECRET, SHORT, VARIABLE, asked, asking, settings_of

from verl_ext.adapters.judge import exchange
from verl_ext.adapters.judge.client import Judge
from verl_ext.adapters.judge.settings import JudgeError, JudgeSettings
from verl_ext.adapters.judge.verdict import Failure


@pytest.fixture
def keyed(serve, monkeypatch):
    monkeypatch.setenv(VARIABLE, SECRET)
    return serve(key_env=VARIABLE)


def test_a_judge_in_a_process_of_its_own_is_the_same(serve):
    (verdict,) = asked(serve(child=True))
    assert verdict.scores == (2.5, 5.0)


def test_the_key_is_read_from_the_environment_when_the_client_is_made(keyed):
    (verdict,) = asked(keyed, api_key_env=VARIABLE)
    assert verdict.failure is None


@pytest.mark.parametrize("value", [None, "", " "])
def test_a_key_that_is_not_there_is_an_error_that_names_the_variable(keyed, monkeypatch, value):
    if value is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(JudgeError, match=VARIABLE):
        asked(keyed, api_key_env=VARIABLE)


@pytest.mark.parametrize("key_env", [None, VARIABLE])
def test_a_wrong_key_stops_the_run_and_is_not_told(keyed, monkeypatch, caplog, key_env):
    """The server repeats the key that it refuses."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(VARIABLE, "sk-wrong-0123")
    with pytest.raises(JudgeError, match=r"'simulated' at http.*refuses.*401") as raised:
        asked(keyed, api_key_env=key_env)
    assert "sk-wrong-0123" not in "".join((str(raised.value), repr(raised.value), caplog.text))
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    if key_env:
        assert "***" in str(raised.value)


def test_the_key_is_nowhere(keyed, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    settings = settings_of(keyed, api_key_env=VARIABLE, cache=str(tmp_path / "cache"))
    judge = Judge(settings)
    verdicts = asking(judge, (SHORT, LONG), (SHORT,))
    assert all(verdict.failure is None for verdict in verdicts)
    assert caplog.records  # the client's own, at DEBUG
    shown = [repr(judge), str(judge), repr(settings), repr(verdicts), caplog.text]
    shown += [*capfd.readouterr()]
    assert all(SECRET not in text for text in shown)
    kept = [path for path in (tmp_path / "cache").iterdir() if path.is_file()]
    assert kept
    assert all(SECRET.encode() not in path.read_bytes() for path in kept)
    assert SECRET.encode() not in pickle.dumps((settings, verdicts))


def test_a_failure_that_repeats_the_key_is_told_without_it(keyed, monkeypatch):
    monkeypatch.setattr(exchange, "FATAL", ())
    monkeypatch.setenv(VARIABLE, "sk-wrong-0123")
    (verdict,) = asked(keyed, api_key_env=VARIABLE)
    assert verdict.failure is Failure.REJECTED
    assert "***" in verdict.detail
    assert "sk-wrong-0123" not in verdict.detail


# Faults of the configuration.


def test_a_model_that_is_not_served_stops_the_run(serve):
    settings = JudgeSettings(serve().url, "other", api_key_env=None)
    with pytest.raises(JudgeError, match=r"'other'.*404.*does not exist"):
        asking(Judge(settings), (SHORT, LONG))


def test_an_address_that_is_no_endpoint_stops_the_run(serve):
    settings = JudgeSettings(serve().url + "/wrong", "simulated", api_key_env=None)
    with pytest.raises(JudgeError, match="404"):
        asking(Judge(settings), (SHORT, LONG))
