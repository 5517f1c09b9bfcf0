"""Text and tables as Markdown."""

import re
from collections.abc import Iterable


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table."""
    cells = [
        list(head),
        ["---"] * len(list(head)),
        *([c.replace("|", "\\|") for c in r] for r in rows),
    ]
    return [f"| {' | '.join(row)} |" for row in cells]


def escaped(text: str) -> str:
    """What stands outside of backticks is no HTML."""
    parts = text.split("`")
    return "`".join(p if i % 2 else p.replace("<", "&lt;") for i, p in enumerate(parts))


def plain(text: str) -> str:
    """A docstring's text as Markdown on one line."""
    text = re.sub(r":\w+:`[~.]?([^`]*)`", lambda found: f"`{found[1].rsplit('.', 1)[-1]}`", text)
    for python, yaml in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", yaml, text)
    return escaped(" ".join(text.replace("``", "`").split()))


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".:") + "."


def slug(heading: str) -> str:
    """What mkdocs makes of a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()))
