"""Looks at a reward function of one's own before the run, in its source: nothing of it is run.

verl imports it in its workers, when the models are loaded, and calls it with the first response.
"""

import ast
import importlib.util
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from verl_ext.adapters import machine
from verl_ext.adapters.errors import SettingsError, refuse_unknown
from verl_ext.suggest import nearest

KEY = "reward.custom_reward_function"
PACKAGE = "pkg://"


def check(config: DictConfig) -> None:
    """Refuses a file, a function and arguments that are not there.

    What a source does not tell is left to verl: a name that another module brings under ``*``, the
    arguments of what is no plain function; and everything where a Ray cluster is joined.

    Args:
        config: verl's whole configuration.

    Raises:
        SettingsError: names the key, and the nearest valid name.
    """
    custom = config.reward.get("custom_reward_function") or {}
    if not custom.get("path"):
        return
    if machine.cluster_address(config) is not None:
        return  # its nodes may have what this one has not
    file, name = _source(str(custom["path"])), str(custom["name"])
    if file is None:
        return
    try:
        module = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise SettingsError(f"{KEY}.path: {file}, line {error.lineno}: {error.msg}") from error
    defined = _defined(module)
    if not {name, "*"} & defined:
        functions = [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
        near = f", did you mean '{nearest(name, functions)}'?" if functions else ""
        raise SettingsError(f"{KEY}.name: {file} has no '{name}'{near}")
    arguments = _arguments(module, name)
    if arguments is not None:
        refuse_unknown(f"{KEY}.reward_kwargs", custom.get("reward_kwargs") or {}, arguments)


def _source(path: str) -> Path | None:
    """The file that verl would load; None where it is no Python source."""
    if not path.startswith(PACKAGE):
        file = Path(path.removeprefix("file://"))
        if not file.is_file():
            raise SettingsError(
                f"{KEY}.path: there is no file {file}. A module that can be imported: "
                f"{KEY}.path={PACKAGE}MODULE"
            )
        return file if file.suffix == ".py" else None
    module = path.removeprefix(PACKAGE).replace("/", ".")
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise SettingsError(
            f"{KEY}.path: there is no module '{module}' here. Install it, or name its file: "
            f"{KEY}.path=FILE.py"
        )
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _defined(module: ast.Module) -> set[str]:
    """What a module may define, in whatever branch; ``*`` where that cannot be said."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found | ({"*"} if "__getattr__" in found else set())


def _arguments(module: ast.Module, name: str) -> list[str] | None:
    """Those of a plain function; None of anything else, or if it takes any."""
    plain: list[Any] = [
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name == name
        and not node.decorator_list
    ]
    if len(plain) != 1 or plain[0].args.kwarg:
        return None
    given = plain[0].args
    return [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
