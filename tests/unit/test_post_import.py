"""Hooks on the end of an import."""

import importlib
import sys

import pytest

from verl_ext import post_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A fresh module `hooked_module` that nobody has imported."""
    (tmp_path / "hooked_module.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hooked_module", raising=False)
    monkeypatch.setattr(post_import, "_FINDER", post_import._Finder())
    yield "hooked_module"
    sys.modules.pop("hooked_module", None)
    sys.meta_path[:] = [f for f in sys.meta_path if f is not post_import._FINDER]


def test_the_hook_runs_once_when_the_import_ends(module):
    seen = []
    post_import.when_imported(module, lambda m: seen.append(m.value))
    assert seen == []
    importlib.import_module(module)
    importlib.import_module(module)
    assert seen == [1]


def test_hooks_of_one_module_run_in_order(module):
    seen = []
    post_import.when_imported(module, lambda m: seen.append("first"))
    post_import.when_imported(module, lambda m: seen.append("second"))
    importlib.import_module(module)
    assert seen == ["first", "second"]


def test_an_imported_module_is_hooked_at_once(module):
    loaded = importlib.import_module(module)
    seen = []
    post_import.when_imported(module, seen.append)
    assert seen == [loaded]


def test_a_hooked_module_looks_as_if_it_had_never_been_hooked(module):
    post_import.when_imported(module, lambda m: None)
    loaded = importlib.import_module(module)
    assert type(loaded.__loader__).__name__ == "SourceFileLoader"
    assert loaded.__spec__.loader is loaded.__loader__


def test_a_failing_hook_fails_the_import(module):
    def fail(_):
        raise RuntimeError("cannot attach")

    post_import.when_imported(module, fail)
    with pytest.raises(RuntimeError, match="cannot attach"):
        importlib.import_module(module)
    assert module not in sys.modules


def test_a_module_that_does_not_exist_still_does_not(module):
    post_import.when_imported("no_such_module_anywhere", lambda m: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_anywhere")
