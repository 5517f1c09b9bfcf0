"""An overlay's YAML as Markdown: its head, and what it sets with the comments beside it."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import yaml
from markup import escaped, table


def overlay(text: str) -> list[str]:
    """An overlay's page: its head, and a table of what it sets."""
    lines = text.splitlines()
    head = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    said = [line.removeprefix("#").strip() for line in head if "@package" not in line]
    rows = [
        row for row in _settings(yaml.compose(text), text) if not row[0].startswith("`defaults")
    ]
    included = [_entry(each) for each in yaml.safe_load(text).get("defaults", [])]
    parts = ", ".join(f"`{each}`" for each in included if each != "_self_")
    said += [f"Includes {parts}."] if parts else []
    return [escaped(" ".join(said)), "", *table(("key", "value", "said of it"), rows)]


def _entry(each: str | dict[str, str]) -> str:
    """An entry of a defaults list, as written."""
    return each if isinstance(each, str) else ": ".join(*each.items())


def _settings(node: Any, text: str, parent: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, value and comment of each line of an overlay that has a value or a comment."""
    lines = text.splitlines()
    for name, value in node.value:
        key = f"{parent}{name.value}"
        branch = isinstance(value, yaml.MappingNode) and not value.flow_style
        end = name.end_mark if branch else value.end_mark
        above = itertools.takewhile(
            lambda line: line.lstrip().startswith("#"), reversed(lines[: name.start_mark.line])
        )
        parts = [line.strip().lstrip("# ") for line in reversed(list(above))]
        beside = re.search(r"\s#\s*(.*)$", lines[end.line][end.column :])
        comment = " ".join([*parts, *([beside[1]] if beside else [])])
        written = text[value.start_mark.index : value.end_mark.index]
        if (comment and parent) or not branch:
            yield f"`{key}`", "" if branch else f"`{written}`", escaped(comment)
        if branch:
            yield from _settings(value, text, f"{key}.")
