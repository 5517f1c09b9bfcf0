"""Processes and references are made once and shared by all rows of the table."""

import functools
from pathlib import Path

import pytest
from engine_parity import cases, engines, reference
from engine_parity.ranks import Ranks


def module_and_layout(item):
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return item.path.name, str(params.get("layout"))


def pytest_collection_modifyitems(items):
    """Of a module, the rows of one layout after the other: see engines.forget_other_layouts."""
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    rows = iter(sorted(here, key=module_and_layout))
    items[:] = [next(rows) if item in here else item for item in items]


@pytest.fixture(scope="module")  # not longer: their threads poll, and would slow other tests
def ranks():
    """ranks(size): processes of a world size; new ones if a job killed the last."""
    pools = {}

    def of(size):
        if size not in pools or not pools[size].alive:
            pools[size] = Ranks(size)
        return pools[size]

    yield of
    for pool in pools.values():
        pool.close()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    @functools.cache
    def saved(kind):
        folder = tmp_path_factory.mktemp(kind)
        cases.save_model(kind, folder)
        cases.save_model(kind, f"{folder}_teacher", seed=1)
        return folder

    return saved


@pytest.fixture(scope="session")
def expected(model_folder):
    """The plain Hugging Face training of a method on a model."""

    @functools.cache
    def trained(method, kind, decay_vectors):
        config = engines.compose(cases.METHODS[method], "dp", [])
        batch, advantages = cases.METHODS[method].prepare(cases.make_batch())
        settings = engines.settings_of(config)
        return reference.train(
            model_folder(kind),
            batch,
            advantages,
            settings,
            decay_vectors=decay_vectors,
            divergence=cases.METHODS[method].divergence,
        )

    return trained
