"""The quick benchmarks' ratios against the recorded ones: never seconds."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
RECORDED = {
    bar["what"]: bar for bar in json.loads((ROOT / "docs" / "benchmarks.json").read_text())["bars"]
}
GROWN = 1.5  # the machine has other work, and one repeat is not fifteen


@pytest.fixture
def benchmark(monkeypatch):
    """A script of benchmarks/, as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def loaded(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return loaded


QUICK = {
    "estimators": lambda module: module.bars(repeats=5),
    "tournament": lambda module: module.bars(groups=16, players=16, latency=0.5),
    "divergence": lambda module: module.bars([(256, 32768, 64)], torch.bfloat16, "cpu", repeats=1),
    "import_time": lambda module: module.bars(pairs=2),
}


@pytest.mark.parametrize("name", QUICK)
def test_a_ratio_is_near_the_recorded_one_and_its_bar(benchmark, name):
    steady = [bar for bar in QUICK[name](benchmark(name)) if bar.steady]
    assert steady
    for bar in steady:
        recorded = RECORDED[bar.what]
        assert bar.ratio <= max(GROWN * recorded["ratio"], 0.5 * bar.most), bar
        assert bar.ratio <= 2 * bar.most, bar
        assert bar.most == recorded["most"]


def test_every_recorded_ratio_keeps_its_bar():
    assert len(RECORDED) >= 6
    for bar in RECORDED.values():
        assert bar["ratio"] <= bar["most"], bar
