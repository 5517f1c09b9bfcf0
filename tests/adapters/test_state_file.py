"""Our file in a checkpoint."""

import random

import numpy as np
import pytest
import torch

from verl_ext.adapters import state_file
from verl_ext.adapters.errors import SettingsError


def draws():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1)


def test_generators_continue_where_they_were_saved(tmp_path):
    before = state_file.generators()
    try:
        state_file.seed_generators(2**62 + 7)
        draws()
        state_file.save(tmp_path / "global_step_3", {"generators": state_file.generators()})
        expected = draws()
        state_file.seed_generators(0)
        assert draws() != expected
        state_file.restore_generators(state_file.load(tmp_path / "global_step_3")["generators"])
        assert draws() == expected
    finally:
        state_file.restore_generators(before)


def test_a_checkpoint_of_a_stock_trainer_has_none(tmp_path):
    assert state_file.load(tmp_path) is None


def test_nothing_half_written_is_left_under_the_name(tmp_path, monkeypatch):
    state_file.save(tmp_path, {"masks": {"aepo": {"on": True}}})

    def fails(value, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        state_file.save(tmp_path, {"masks": {}})
    assert state_file.load(tmp_path)["masks"] == {"aepo": {"on": True}}


@pytest.mark.parametrize("length", [0, 10, 400])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path, length):
    state_file.save(tmp_path, {"masks": {}, "more": torch.zeros(1000)})
    file = tmp_path / state_file.FILE
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(SettingsError, match=r"verl_ext\.pt is damaged .*resume_from_path"):
        state_file.load(tmp_path)


def test_a_file_of_another_version_is_refused(tmp_path):
    torch.save({"version": 99}, tmp_path / state_file.FILE)
    with pytest.raises(SettingsError, match="version 99"):
        state_file.load(tmp_path)
