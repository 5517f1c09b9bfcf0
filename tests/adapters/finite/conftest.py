"""The fixtures of these tests."""

import pytest
from adapters.finite.stops import REWARD, Queue, Trainer
from omegaconf import OmegaConf

from verl_ext.adapters.trainer import finite
from verl_ext.toy import world


@pytest.fixture(scope="module")
def model():
    """The toy's policy."""
    return world.ensure("w_reinforce").model


@pytest.fixture
def trainer(tmp_path, monkeypatch, model):
    def made(servers_too=False, **ours):
        (tmp_path / "reward.py").write_text(REWARD)
        custom = {"path": str(tmp_path / "reward.py"), "name": "score", "reward_kwargs": {}}
        config = {
            "algorithm": {
                "adv_estimator": "grpo", "gamma": 1.0, "lam": 1.0,
                "norm_adv_by_std_in_grpo": True, "verl_ext": ours,
            },
            "actor_rollout_ref": {
                "rollout": {"n": 2, "temperature": 1.0, "calculate_log_probs": servers_too},
                "model": {"path": str(model)},
            },
            "trainer": {"default_local_dir": str(tmp_path / "run")},
            "reward": {"custom_reward_function": custom},
        }  # fmt: skip
        result = Trainer(OmegaConf.create(config))
        result.queue = Queue()
        monkeypatch.setattr(finite.tq, "kv_batch_get", result.queue.get)
        return result

    monkeypatch.delenv("VERL_FILE_LOGGER_PATH", raising=False)
    return made
