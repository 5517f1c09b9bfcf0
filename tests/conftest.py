"""Shared fixtures."""

import pytest
import yaml
from hypothesis import HealthCheck, settings

# Hydra reads some forty files for each configuration that a test composes: a fifth faster so.
yaml.SafeLoader = yaml.CSafeLoader

# hypothesis without a limit of time: the machine may have other work.
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
if settings.get_current_profile_name() == "default":  # tests/mutation has a profile of its own
    settings.load_profile("busy")

RUNS = ("tests/runs/", "tests/matrix/test_cells.py")


def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadscope``: file by file, but for whole runs, which all go to one process.

    Two at once would want more memory than a small machine has.
    """
    if config.getvalue("dist") != "loadscope":
        return None  # as asked
    from xdist.scheduler import LoadScopeScheduling

    class OneRunAtATime(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "runs" if nodeid.startswith(RUNS) else nodeid.split("::")[0]

    config.option.loadscopereorder = False
    return OneRunAtATime(config, log)


def pytest_collection_modifyitems(config, items):
    """With pytest-xdist the whole runs first: they take longest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(RUNS))


class WholeRuns:
    """Says when a whole run has ended: they take minutes, and dots do not show which."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and "run" in report.keywords:
            terminal = self.config.pluginmanager.getplugin("terminalreporter")
            terminal.write_line(f"\n{report.outcome} in {report.duration:.0f} s: {report.nodeid}")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # the process that has the terminal
        config.pluginmanager.register(WholeRuns(config))


@pytest.fixture(scope="session")
def verl_config():
    """Composes verl's configuration with overrides, as the command line would."""
    from hydra import compose, initialize_config_module

    def composed(*overrides, primary="ppo_trainer"):
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose(primary, overrides=list(overrides))

    return composed
