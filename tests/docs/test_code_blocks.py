"""Every code block of the documentation: run, composed, parsed, or refused by this file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import verl  # loads the plugin  # noqa: F401
import yaml
from docs.blocks import ROOT, blocks, commands, pages, scripts
from docs.verl_line import check_line

from verl_ext import catalog
from verl_ext.cli import main as cli

BLOCKS = [block for page in pages() for block in blocks(page)]
COMMANDS = [each for block in BLOCKS if block.language == "bash" for each in commands(block)]
LANGUAGES = {"bash", "python", "yaml", "toml", "text"}
# Commands of others that a page may show; each is right or wrong by their documentation alone.
OTHERS = {
    ("git", "clone"): "fetches",
    ("hf", "download"): "fetches",
    ("ray", "start"): "starts a cluster",
    ("cd",): "changes nothing",
    (".", ".venv/bin/activate"): "made by make venv",
}


def of(*start):
    return [each for each in COMMANDS if each.words[: len(start)] == start]


VERL, OURS, MAKE = of("python", "-m", "verl.trainer.main_ppo"), of("verl-ext"), of("make")
# Composing takes half a second: a line that stands on several pages is judged once.
LINES = {(each.words, *each.environment.items()): each for each in reversed(VERL)}.values()
PIP, SCRIPTS = of("pip"), [each for each in of("python") if each.words[1].endswith(".py")]
NAMED = [each for page in pages() for each in scripts(page)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_every_block_says_in_which_language_it_is(block):
    assert block.language in LANGUAGES, f"{block.place}: ```{block.language}"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_is_of_a_kind_that_is_checked(command):
    checked = [*VERL, *OURS, *MAKE, *PIP, *SCRIPTS]
    assert command in checked or any(command.words[: len(start)] == start for start in OTHERS)


@pytest.mark.parametrize("command", LINES, ids=str)
def test_verl_composes_and_the_driver_accepts(command, monkeypatch, tmp_path):
    modules = command.environment.get("VERL_USE_EXTERNAL_MODULES")
    if modules is None:
        check_line(command.words[3:], command.environment, monkeypatch, tmp_path)
    else:  # a plugin is loaded with verl, so in a process of its own
        write_modules(command.place.split(":")[0], tmp_path)
        here = [str(Path(__file__).parent.parent), str(tmp_path)]
        program = [sys.executable, "-m", "docs.verl_line", str(tmp_path), *command.words[3:]]
        run_with(program, command.environment | {"PYTHONPATH": ":".join(here)}, tmp_path)


def run_with(program, environment, folder):
    done = subprocess.run(
        program, env={**os.environ, **environment}, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("command", OURS, ids=str)
def test_our_command_parses(command):
    cli.parser().parse_args(command.words[1:])


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_make_has_the_target(command):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(command.words[1:]) <= set(targets)


@pytest.mark.parametrize("command", PIP, ids=str)
def test_pip_is_asked_for_extras_that_exist(command):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [word for word in command.words if word.startswith("verl-ext")]
    assert wanted
    for word in wanted:
        extra = re.fullmatch(r"verl-ext(?:\[([a-z,]+)\])?", word)
        assert extra, word
        named = set(extra[1].split(",")) if extra[1] else set()
        assert named <= set(project["optional-dependencies"])


@pytest.mark.parametrize("command", [*SCRIPTS, *NAMED], ids=str)
def test_a_script_is_there_and_knows_its_options(command):
    script = (ROOT / command.words[1]).read_text(encoding="utf-8")
    for word in command.words[2:]:
        assert not word.startswith("-") or f'"{word}"' in script, word


@pytest.mark.parametrize(
    "block", [each for each in BLOCKS if each.language in ("yaml", "toml")], ids=lambda b: b.place
)
def test_data_parses(block):
    (yaml.safe_load if block.language == "yaml" else tomllib.loads)(block.text)


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.language == "python"})
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
    """A module to be saved is saved; test functions of the page are called."""
    registered = [(each, dict(each)) for each in (catalog.ADVANTAGES, catalog.MASKS)]
    saved = write_modules(page, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace = {"__name__": "page"}
    try:
        for block in blocks(page):
            if block.language == "python" and block.text not in saved.values():
                exec(compile(block.text, block.place, "exec"), namespace)
        for name, value in list(namespace.items()):
            if name.startswith("test_"):
                value()
    finally:
        for name in saved:
            sys.modules.pop(name, None)
        for entries, original in registered:  # what the page registered is gone again
            entries.clear()
            entries.update(original)


def write_modules(page, folder):
    """Saves the blocks of a page that are to be saved, "Save this as `NAME.py`"; name -> text."""
    saved = {}
    for block in blocks(page):
        named = re.search(r"[Ss]ave this as\s+`(\w+)\.py`", block.before)
        if named and block.language == "python":
            (folder / f"{named[1]}.py").write_text(block.text, encoding="utf-8")
            saved[named[1]] = block.text
    return saved
