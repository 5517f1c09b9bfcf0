"""What `docs/capability.json` says of the matrix: nothing stale, nothing missing, every refusal."""

import pytest
from matrix.cells import (
    CELLS,
    ELSEWHERE,
    METHODS,
    RECORDING,
    RESUMED,
    TRAINED,
    fingerprint,
    pairs,
    record,
    recorded,
    refusals,
)

from verl_ext.adapters import driver_check
from verl_ext.adapters.errors import SettingsError


@pytest.fixture(scope="module")
def configurations(verl_config):
    """Cell -> its configuration: composing them all takes a minute."""
    return {cell: verl_config(*cell.overrides) for cell in CELLS}


def test_cells_are_refused_for_the_recorded_reason_and_no_others(configurations):
    for cell, config in configurations.items():
        try:
            driver_check.check(config)
            found = None
        except SettingsError as refusal:
            found = str(refusal)
        if RECORDING and found:
            record(cell, config, refused=found, by="driver")
        assert refusals("driver").get(str(cell)) == found, cell


@pytest.mark.parametrize("cell", [c for c in CELLS if str(c) in recorded()], ids=str)
def test_no_recorded_cell_is_stale(configurations, cell):
    now = fingerprint(configurations[cell])
    assert recorded()[str(cell)]["config"] == now, f"it changed: make test-matrix CELLS={cell}"


def test_no_cell_is_missing():
    missing = [str(cell) for cell in CELLS if str(cell) not in recorded()]
    assert not missing, f"make test-matrix CELLS='{' or '.join(missing)}'"


def test_every_overlay_with_a_variant_for_the_cpu_is_a_row():
    assert len(METHODS) >= 14
    assert {cell.method for cell in CELLS} == set(METHODS)


def test_the_cells_of_make_test_have_every_pair_of_values():
    runs = [c for c in CELLS if str(c) not in refusals("driver") | refusals("run")]
    wanted = {pair for cell in runs for resumed in (False, True) for pair in pairs(cell, resumed)}
    # A run that is resumed has gone to its end first.
    resumed = [*RESUMED, *(cell for cell, is_resumed in ELSEWHERE.items() if is_resumed)]
    covered = {pair for cell in resumed for pair in pairs(cell, True) | pairs(cell, False)}
    covered |= {pair for cell in (*TRAINED, *ELSEWHERE) for pair in pairs(cell, False)}
    assert not wanted - covered
    assert set(RESUMED) | set(TRAINED) <= set(runs)
