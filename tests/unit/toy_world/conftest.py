"""The worlds of these tests."""

import pytest
from unit.toy_world.tiny_worlds import TAUGHT, TINY

from verl_ext.toy import variants, world


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(variants.VARIANTS, "tiny", TINY)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.VARIANTS, "tiny", TINY)
        yield world.ensure("tiny", cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def taught(built):
    """A world with three teachers, in the cache of the one without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.VARIANTS, "taught", TAUGHT)
        yield world.ensure("taught", cache_dir=built.root.parent.parent, progress=False)
