"""The fixture of these tests."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_EXT_CACHE", str(tmp_path))
    return tmp_path / "base_scores"
