import inspect

import pytest

from verl_ext import overlays
from verl_ext.catalog import ADVANTAGES, MASKS, PAPERS

PLUGINS = {**ADVANTAGES, **MASKS}


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


@pytest.mark.parametrize("name", PLUGINS)
def test_the_fields_a_plugin_needs_are_parameters_of_its_function(name):
    assert set(PLUGINS[name].needs) <= set(inspect.signature(PLUGINS[name].function).parameters)


@pytest.mark.parametrize("entry", [*PLUGINS.values(), *PAPERS.values()], ids=[*PLUGINS, *PAPERS])
def test_every_entry_names_its_paper(entry):
    assert entry.title
    assert entry.url.startswith("https://")
    assert entry.summary
