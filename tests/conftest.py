"""Shared fixtures."""

import pytest


@pytest.fixture
def verl_config():
    """Composes verl's configuration with overrides, as the command line would."""
    from hydra import compose, initialize_config_module

    def composed(*overrides, primary="ppo_trainer"):
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose(primary, overrides=list(overrides))

    return composed
