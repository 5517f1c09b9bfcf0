"""The fixture of these tests."""

import uuid

import pytest
import transfer_queue as tq


@pytest.fixture
def use(monkeypatch):
    """Puts a world in TransferQueue's place, with uids that do not depend on the machine."""

    def replaced(world):
        for name in ("kv_list", "kv_batch_put", "kv_clear", "kv_batch_get"):
            monkeypatch.setattr(tq, name, getattr(world, name))
        monkeypatch.setattr(uuid, "uuid4", lambda: f"{world.rng.getrandbits(64):016x}")
        return world

    return replaced
