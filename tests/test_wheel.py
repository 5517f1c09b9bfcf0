"""The wheel holds every file, nothing generic beside them, and works on its own."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Folder in the repository -> folder in the wheel.
FOLDERS = {
    "advantage_fns": "verl_ext/advantage_fns",
    "reward_fns": "verl_ext/reward_fns",
    "recipes": "verl_ext/recipes",
    "verl_ext": "verl_ext",
    "hydra_plugins": "hydra_plugins",
}
if importlib.util.find_spec("setuptools") is None:
    pytest.skip("building the wheel needs setuptools", allow_module_level=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # From a copy: setuptools leaves build/ and an egg-info behind, and build/ leaks into the next.
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    return target


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "-q", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_python_and_yaml_file(wheel):
    expected = {
        f"{inside}/{path.relative_to(ROOT / folder)}"
        for folder, inside in FOLDERS.items()
        for pattern in ("*.py", "*.yaml", "py.typed")
        for path in (ROOT / folder).rglob(pattern)
    }
    assert expected - names(wheel) == set()
    assert "verl_ext/recipes/scale/cpu.yaml" in expected


def test_nothing_generic_stands_at_the_top_of_the_wheel(wheel):
    top = {name.split("/")[0] for name in names(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "verl_ext",
        "hydra_plugins",
    }


def test_the_namespace_package_of_hydra_has_no_init_of_ours(wheel):
    assert "hydra_plugins/__init__.py" not in names(wheel)


def test_the_wheel_declares_the_plugin_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(path).decode()
    assert "[verl.plugins]\nverl_ext = verl_ext.plugin" in text
    assert "verl-ext = verl_ext.cli.main:main" in text


def test_the_installed_wheel_works_in_another_directory_without_verl(installed, tmp_path):
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["verl", "ray", "omegaconf", "hydra", "transfer_queue"]))
sys.path.insert(0, {str(installed)!r})
# An editable install of the same package would win over the path.
sys.meta_path[:] = [item for item in sys.meta_path if "editable" not in repr(item).lower()]
import torch
import verl_ext.catalog, verl_ext.masks.zero_advantage, verl_ext.metrics.pass_at_k, verl_ext.run_log
from verl_ext import overlays
from verl_ext.advantage_fns import w_reinforce
assert w_reinforce.__file__.startswith({str(installed)!r}), w_reinforce.__file__
assert "cpu" in overlays.names("scale")
advantages, _ = w_reinforce.w_reinforce(torch.eye(2), torch.ones(2, 2), positive_weight=0.5)
assert advantages.tolist() == [[0.5, 0.5], [0.5, 0.5]]
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr


def test_the_installed_wheel_gives_verl_its_overlays_from_an_empty_directory(installed, tmp_path):
    """The wheel's files win over the editable install: a path comes before an import finder."""
    import os

    where = "import verl, verl_ext; print(verl_ext.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert found.stdout.startswith(str(installed)), found.stderr
    composed = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", "+paper=nsr", "+scale=cpu", "--cfg", "job"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "adv_estimator: verl_ext.w_reinforce" in composed.stdout, composed.stderr
