import inspect
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from verl_ext import overlays, papers
from verl_ext.catalog import ADVANTAGES, MASKS, MIXERS, REWARDS, SAMPLERS
from verl_ext.cli.main import COMMANDS, main
from verl_ext.papers import PAPERS

PLUGINS = {**ADVANTAGES, **MIXERS, **REWARDS, **MASKS, **SAMPLERS}


def test_every_overlay_of_a_paper_has_an_entry_and_every_entry_an_overlay():
    assert sorted(PAPERS) == overlays.names("paper")


@pytest.mark.parametrize("name", ADVANTAGES)
def test_estimators_carry_the_prefix_and_the_name_of_their_function(name):
    assert name == f"verl_ext.{ADVANTAGES[name].function.__name__}"


@pytest.mark.parametrize("name", MASKS)
def test_masks_carry_the_name_of_their_module(name):
    assert MASKS[name].function.__module__ == f"verl_ext.masks.{name}"


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_is_used_by_overlays_that_exist_and_types_its_own_name(name):
    plugin = PLUGINS[name]
    assert set(plugin.overlays) <= set(PAPERS)
    assert name in plugin.line


@pytest.mark.parametrize("entry", [*PLUGINS.values(), *PAPERS.values()], ids=[*PLUGINS, *PAPERS])
def test_what_is_to_be_typed_survives_a_shell_and_hydra(entry):
    words = shlex.split(entry.line.removeprefix(papers.RUN))
    assert len(OverridesParser.create().parse_overrides(words)) == len(words) > 0


@pytest.mark.parametrize("name", PLUGINS)
def test_the_fields_a_plugin_needs_are_parameters_of_its_function(name):
    function = PLUGINS[name].function
    call = function.__call__ if inspect.isclass(function) and PLUGINS[name].needs else function
    assert set(PLUGINS[name].needs) <= set(inspect.signature(call).parameters)


@pytest.mark.parametrize("entry", [*PLUGINS.values(), *PAPERS.values()], ids=[*PLUGINS, *PAPERS])
def test_every_entry_names_its_paper(entry):
    assert entry.title
    assert entry.url.startswith("https://")
    assert entry.summary


def test_the_module_is_the_command_too():
    import subprocess
    import sys

    command = [sys.executable, "-m", "verl_ext", "list"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "verl_ext.w_reinforce" in run.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"verl-ext {name}" in capsys.readouterr().out


def test_the_command_alone_names_its_subcommands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_an_unknown_subcommand_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["plit"])
    assert stopped.value.code == 2
    assert "plit" in capsys.readouterr().err
