"""What a user gets when something is wrong, seen from outside: exit code and words."""

import subprocess
import sys
import textwrap

import pytest

BROKEN = """
    import importlib.abc, sys

    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "verl_ext.adapters.registration":
                raise ImportError("simulated damage")

    sys.meta_path.insert(0, Broken())
"""


def run(*command, cwd, env=None):
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, env=env
    )


@pytest.fixture
def broken_plugin(tmp_path, monkeypatch):
    """An environment in which our plugin fails to import."""
    import os

    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(BROKEN))
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_a_broken_plugin_stops_the_run_with_its_traceback(broken_plugin, tmp_path):
    out = run(
        "verl.trainer.main_ppo", "+paper=w_reinforce", "+scale=cpu", cwd=tmp_path, env=broken_plugin
    )
    assert out.returncode != 0
    assert "Traceback" in out.stderr
    assert "simulated damage" in out.stderr
    assert "verl-ext doctor" in out.stderr


def test_the_doctor_finds_a_broken_plugin(broken_plugin, tmp_path):
    out = run("verl_ext", "doctor", cwd=tmp_path, env=broken_plugin)
    assert out.returncode == 1
    assert "driver: the plugin did not load" in out.stderr
    assert "simulated damage" in out.stderr


def test_the_doctor_sees_every_registration_in_driver_and_ray_worker(tmp_path):
    out = run("verl_ext", "doctor", cwd=tmp_path)
    assert out.returncode == 0, out.stdout + out.stderr
    assert out.stdout.count("estimator verl_ext.w_reinforce") == 2
    assert out.stdout.count("trainer verl_ext.sync") == 2
    assert out.stdout.count("platform cpu (PlatformCPU)") == 2
    assert "Megatron" in out.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+paper=w_reinforec", "+scale=cpu"], "did you mean +paper=w_reinforce?"),
        (["+scale=cpu", "+paper=nsr"], "Type: +paper=nsr +scale=cpu"),
        (["+paper=nsr", "+scale=cpu", "+task=gsm8k"], "Type: task=gsm8k"),
        (
            ["+paper=nsr", "+scale=cpu", "trainer.v1.trainer_mode=sync"],
            "Add: trainer.v1.trainer_mode=verl_ext.sync",
        ),
    ],
)
def test_a_refused_line_ends_in_words_without_a_traceback(arguments, words, tmp_path):
    out = run("verl.trainer.main_ppo", *arguments, cwd=tmp_path)
    assert out.returncode != 0
    assert words in out.stderr
    assert "Traceback" not in out.stderr


@pytest.mark.parametrize("package", ["mbridge", "megatron.core"])
def test_a_missing_megatron_package_is_named_at_the_start_with_its_extra(package, tmp_path):
    import os

    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{package!r}] = None")
    out = run(
        "verl.trainer.main_ppo",
        "model_engine=megatron",
        "+paper=w_reinforce",
        "+scale=cpu",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert out.returncode != 0
    assert f"model_engine=megatron needs {package}: pip install 'verl-ext[megatron]'" in out.stderr
    assert "Traceback" not in out.stderr
