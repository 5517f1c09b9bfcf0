"""A reward function of one's own, looked at in its source before a model is loaded."""

import pytest
import verl  # loads the plugin  # noqa: F401
from omegaconf import OmegaConf

from verl_ext.adapters import driver_check, reward_function
from verl_ext.adapters.errors import SettingsError
from verl_ext.toy import reward

SOURCE = """
raise SystemExit("nothing of it is run")

def compute_score(data_source, solution_str, ground_truth, extra_info=None, *, power=1.0):
    return 1.0

@decorated
def wrapped(*anything):
    return 1.0

def open_ended(data_source, **more):
    return 1.0

other = compute_score
"""


@pytest.fixture
def check(tmp_path):
    def checked(source=SOURCE, path=None, cluster="local", **custom):
        file = tmp_path / "mine.py"
        file.write_text(source)
        custom = {"path": path or str(file), "name": "compute_score"} | custom
        config = {
            "reward": {"custom_reward_function": custom},
            "ray_kwargs": {"ray_init": {"address": cluster}},
        }
        reward_function.check(OmegaConf.create(config))

    return checked


@pytest.mark.parametrize(
    "custom",
    [
        {"reward_kwargs": {"power": 2.0}},
        {"reward_kwargs": None},
        {"name": "wrapped", "reward_kwargs": {"powr": 2.0}},
        {"name": "open_ended", "reward_kwargs": {"powr": 2.0}},
        {"name": "other", "reward_kwargs": {"powr": 2.0}},
        {"name": "loads", "source": "from json import *"},
        {"name": "anything", "source": "def __getattr__(name): ..."},
        {"path": "pkg://verl_ext.toy.reward"},
        {"path": "pkg://verl_ext/toy/reward"},
        {"path": f"file://{reward.__file__}"},
        {"path": "/on/another/node.py", "cluster": "10.0.0.1:6379"},
        {"path": "pkg://math", "name": "what_is_no_source_is_verls"},
    ],
)
def test_what_is_there_or_cannot_be_said_passes(check, custom):
    check(**custom)


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        ({"name": "compute_scor"}, r"\.name: .*mine\.py has no .*mean 'compute_score'"),
        ({"reward_kwargs": {"powr": 2}}, r"reward_kwargs: unknown 'powr', did you mean 'power'"),
        ({"path": "file:///no/file.py"}, r"\.path: there is no file /no/file\.py"),
        ({"path": "/no/file.py"}, r"\.path: there is no file /no/file\.py"),
        ({"path": "pkg://verl_ext.toy.rewards"}, r"no module 'verl_ext\.toy\.rewards'"),
        ({"path": "pkg://not_installed.rewards"}, r"no module 'not_installed\.rewards'"),
        ({"source": ""}, r"mine\.py has no 'compute_score'$"),
        ({"path": "/tmp"}, r"\.path: there is no file /tmp\."),
        ({"source": "def f(:"}, r"mine\.py, line 1: "),
    ],
)
def test_what_is_not_there_is_named(check, custom, message):
    with pytest.raises(SettingsError, match=message):
        check(**custom)


def test_the_driver_looks(verl_config):
    line = ("+paper=w_reinforce", "+scale=cpu", "reward.custom_reward_function.name=compute_scor")
    with pytest.raises(SettingsError, match="did you mean 'compute_score'"):
        driver_check.check(verl_config(*line))
