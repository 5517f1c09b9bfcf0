"""Shared fixtures."""

import pytest


def pytest_collection_modifyitems(items):
    """Two processes share the suite (`make test`): one makes the whole runs, one all the rest.

    A run waits for its processes half of the time, and two at once would not fit into memory.
    """
    for item in items:
        group = "runs" if item.get_closest_marker("run") else "rest"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def verl_config():
    """Composes verl's configuration with overrides, as the command line would."""
    from hydra import compose, initialize_config_module

    def composed(*overrides, primary="ppo_trainer"):
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose(primary, overrides=list(overrides))

    return composed
