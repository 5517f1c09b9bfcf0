"""A command line of verl's, composed by Hydra and judged by our driver check; nothing is run.

python -m docs.verl_line FOLDER OVERRIDE ...
"""

import contextlib
import sys
from pathlib import Path
from unittest import mock

from omegaconf import OmegaConf

FILES = ("train.parquet", "val.parquet")


def check_line(words, environment, monkeypatch, folder):
    """Composes and checks in a folder with the files that lines name, and with accelerators.

    Raises:
        Exception: Hydra's, OmegaConf's or a SettingsError, with what is wrong.
    """
    from verl_ext import overlays
    from verl_ext.adapters import driver_check

    for name in (*FILES, *(f"data/{task}/{name}" for task in ("gsm8k", "math", "qa") for name in
                           ("train.parquet", "test.parquet"))):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, value in {"HOME": str(folder), "RAY_ADDRESS": "", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    primary, overrides = split([word.replace("$HOME", str(folder)) for word in words])
    overlays.check(overrides)
    config = composed(primary, overrides)
    with accelerators(config):
        driver_check.check(config)
    OmegaConf.to_container(config.algorithm, resolve=config.trainer.device == "cpu")


def split(words):
    """The primary configuration and the overrides of a command line."""
    words = list(words)
    primary = "ppo_trainer"
    for flag, count in (("--config-name", 2), ("--cfg", 2)):
        if flag in words:
            at = words.index(flag)
            primary = words[at + 1] if flag == "--config-name" else primary
            del words[at : at + count]
    assert not [word for word in words if word.startswith("-")], words
    return primary, words


def composed(primary, overrides):
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(primary, overrides=overrides)


@contextlib.contextmanager
def accelerators(config):
    """As where the run is for: with GPUs, the packages of Megatron on them, Ray's cluster."""
    from verl_ext.adapters import machine, megatron

    if config.trainer.device == "cpu":
        yield
        return
    with (
        mock.patch.object(machine, "_check_device"),
        mock.patch.object(machine, "_check_ray_address"),
        mock.patch.object(megatron, "_check_packages"),
    ):
        yield


if __name__ == "__main__":
    import pytest
    import verl  # loads the plugins  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        check_line(sys.argv[2:], {}, patch, Path(sys.argv[1]))
