"""Wheel and sdist in empty environments, and the version in all the places that name it."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parent.parent
TORCH = re.search(r"^TORCH := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
INDEX = re.search(r"^TORCH_INDEX := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PURE = """
import sys, torch, verl_ext.catalog
from verl_ext.advantage_fns.w_reinforce import w_reinforce
advantages, _ = w_reinforce(torch.eye(2), torch.ones(2, 2), positive_weight=0.5)
assert advantages.tolist() == [[0.5, 0.5], [0.5, 0.5]]
assert not {"verl", "ray", "vllm", "hydra"} & set(sys.modules)
print(verl_ext.catalog.__file__)
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_changelog_has_the_version_with_its_numerics():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version("verl-ext") == stated
    latest = re.search(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.M)
    assert latest[1] == stated
    section = CHANGELOG[latest.end() :]
    assert "### Numerics" in section.partition("\n## ")[0]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of what git has, and the wheel made of the sdist, as an index would get them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    run("git", "clone", "-q", str(ROOT), str(source))
    run(sys.executable, "-m", "build", "-q", "--no-isolation", "--outdir", str(out), str(source))
    return out


@pytest.mark.wide
@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_an_empty_environment_takes_it(built, tmp_path, pattern):
    (file,) = built.glob(pattern)
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    torch = subprocess.run([python, "-m", "pip", "install", "-q", TORCH], capture_output=True)
    if torch.returncode:
        run(python, "-m", "pip", "install", "-q", TORCH, "--extra-index-url", INDEX)
    run(python, "-m", "pip", "install", "-q", str(file))
    assert run(python, "-c", PURE, cwd=tmp_path).startswith(str(tmp_path))
    listed = run(str(tmp_path / "venv" / "bin" / "verl-ext"), "list", cwd=tmp_path)
    assert "w_reinforce" in listed
    types = tmp_path / "venv" / "lib"
    assert list(types.glob("python*/site-packages/verl_ext/py.typed"))


@pytest.mark.run
@pytest.mark.wide
def test_the_wheel_trains_from_outside_the_repository(built, tmp_path, monkeypatch):
    """An environment with verl's stack and, in the place of this checkout, the wheel.

    ``preload`` as ``+scale=cpu`` has it: said here, the run shares no imports with others.
    """
    from runs.launch import train

    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    run(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    overrides = [
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "algorithm.verl_ext.preload=true",
    ]
    _, metrics = train(folder, "+paper=w_reinforce", "+scale=cpu", *overrides)
    assert set(metrics) == {1}
