"""Dependencies point one way: adapters know verl, pure functions know torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("advantage_fns", "reward_fns", "recipes", "verl_ext", "hydra_plugins")
VERL_AND_CO = {"verl", "ray", "omegaconf", "transfer_queue", "vllm", "hydra"}
MAY_KNOW_VERL = (
    "verl_ext/adapters/",
    "verl_ext/platforms/",
    "verl_ext/plugin.py",
    "hydra_plugins/",
)
PURE = (
    "advantage_fns/",
    "reward_fns/",
    "verl_ext/masks/",
    "verl_ext/losses/",
    "verl_ext/metrics/",
    "verl_ext/sampling/",
    "verl_ext/self_teaching/",
    "verl_ext/simulated_judge/annotator.py",
    "verl_ext/simulated_judge/answers.py",
    "verl_ext/simulated_judge/chance.py",
    "verl_ext/simulated_judge/faults.py",
    "verl_ext/simulated_judge/quality.py",
    "verl_ext/simulated_judge/settings.py",
    "verl_ext/tensor_ops.py",
    "verl_ext/catalog.py",
    "verl_ext/suggest.py",
    "verl_ext/run_log.py",
    "verl_ext/text_table.py",
)
PURE_IMPORTS = {"torch", "numpy", "jaxtyping", "verl_ext"} | set(sys.stdlib_module_names)
BLOCKED = ("verl", "ray", "omegaconf", "hydra", "transfer_queue", "transformers", "vllm")

FILES = sorted(
    str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
)
# A sub-package found by its files, so that a new pure module is covered without being named here.
PURE_MODULES = [
    ("" if file.startswith("verl_ext/") else "verl_ext.")
    + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for file in FILES
    if file.startswith(PURE)
]


def imported(file):
    """Top-level names of everything a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_files_are_found():
    assert "advantage_fns/w_reinforce.py" in FILES
    assert "verl_ext.advantage_fns.w_reinforce" in PURE_MODULES


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(MAY_KNOW_VERL)])
def test_only_adapters_platforms_and_plugin_import_verl(file):
    assert not imported(file) & VERL_AND_CO


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(PURE)])
def test_pure_modules_import_nothing_but_torch_numpy_jaxtyping_and_the_standard_library(file):
    assert imported(file) <= PURE_IMPORTS


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(PURE)])
def test_pure_modules_know_no_adapter(file):
    source = (ROOT / file).read_text()
    assert "verl_ext.adapters" not in source
    assert "verl_ext.platforms" not in source


def test_pure_modules_work_where_verl_is_not_installed():
    run = python(
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}))\n"
        f"import importlib\nfor name in {PURE_MODULES}: importlib.import_module(name)"
    )
    assert run.returncode == 0, run.stderr


def test_the_command_lists_and_plots_where_verl_is_not_installed():
    run = python(
        f"import sys; sys.modules.update(dict.fromkeys({BLOCKED}))\n"
        "import verl_ext.testing, verl_ext.plotting, verl_ext.cli.plot\n"
        "from verl_ext.cli.main import main; main(['list'])"
    )
    assert run.returncode == 0, run.stderr


def test_importing_the_package_imports_neither_verl_nor_torch():
    run = python("import sys, verl_ext; print(sorted({'verl', 'torch', 'ray'} & set(sys.modules)))")
    assert run.stdout.strip() == "[]", run.stderr


def test_the_estimator_contract_is_importable_without_hypothesis():
    run = python("import sys; sys.modules['hypothesis'] = None; import verl_ext.testing")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("folder", ["advantage_fns", "reward_fns"])
def test_a_folder_imported_by_its_own_name_says_what_to_type(folder):
    run = subprocess.run(
        [sys.executable, "-c", f"import {folder}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert f"import verl_ext.{folder}" in run.stderr
